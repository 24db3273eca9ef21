"""convert(): the same model, with integer layers where the patterns say so."""

import copy

import pytest
import torch
from torch import nn

from mmint.conversion import convert, format_report
from mmint.conversion.report import CLASS_KEPT
from mmint.layers import IntBatchNorm2d, IntConv2d, IntConvTranspose2d, IntLayer, IntLinear


class OddConv(nn.Conv2d):
    """A convolution that computes something of its own."""

    def forward(self, x):
        return super().forward(x) + 1


class Net(nn.Module):
    """A small model with every class that matters here."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
        self.neck = nn.ModuleDict(dict(up=nn.ConvTranspose2d(4, 4, 2), odd=OddConv(4, 4, 1)))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))

    def forward(self, x):
        x = self.backbone(x)
        return self.head(self.neck['odd'](self.neck['up'](x))[..., :3, :3])


def net():
    torch.manual_seed(0)
    return Net()


def integer_layers(model):
    return {n: m.bits for n, m in model.named_modules() if isinstance(m, IntLayer)}


def classes(model):
    return {n: type(m) for n, m in model.named_modules()}


def test_stock_layers_become_integer_layers():
    model = net()
    convert(model)
    assert type(model.backbone[0]) is type(model.backbone[2]) is IntConv2d
    assert type(model.backbone[1]) is IntBatchNorm2d
    assert type(model.neck['up']) is IntConvTranspose2d and type(model.head[1]) is IntLinear
    assert set(integer_layers(model).values()) == {8}
    out = model(torch.randn(2, 3, 7, 7))
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_exact_layers_compute_the_same_and_have_no_bits():
    model = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.ReLU(inplace=True))
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    results = []
    for _ in range(2):
        value = x.clone().requires_grad_()
        out = model(value * 1)
        out.square().sum().backward()
        results.append((out.detach(), value.grad))
        convert(model)
    assert convert(nn.Sequential(nn.ReLU()))[0].bits is None
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_modules_parameters_and_keys_stay_the_same_objects():
    model = net()
    modules, params = dict(model.named_modules()), dict(model.named_parameters())
    keys = list(model.state_dict())
    convert(model)
    assert all(m is modules[n] for n, m in model.named_modules())
    assert all(p is params[n] for n, p in model.named_parameters())
    assert list(model.state_dict()) == keys


def test_hooks_and_mode_and_frozen_parameters_are_kept():
    model = net().eval()
    model.backbone[0].weight.requires_grad_(False)
    calls = []
    model.backbone[0].register_forward_hook(lambda *_: calls.append(1))
    convert(model)
    model(torch.randn(1, 3, 7, 7))
    assert calls == [1] and not model.backbone[0].training
    assert not model.backbone[0].weight.requires_grad


def test_every_layer_is_named_and_numbered_by_its_place():
    model, twin = net(), net()
    nn.Linear(1, 1)
    convert(model)
    IntLinear(1, 1)  # takes a number of its own, which must not shift the others
    convert(twin)
    sites = {n: m.site for n, m in model.named_modules() if isinstance(m, IntLayer)}
    assert all(site.name == n for n, site in sites.items())
    assert len({site.number for site in sites.values()}) == len(sites)
    assert {n: m.site for n, m in twin.named_modules() if isinstance(m, IntLayer)} == sites


def test_a_subclass_keeps_its_class_and_is_listed():
    model = net()
    report = convert(model)
    assert type(model.neck['odd']) is OddConv
    by_name = {entry.name: entry for entry in report}
    assert by_name['neck.odd'].bits == 8 and by_name['neck.odd'].after == 'class kept'
    assert set(by_name) == {n for n, m in model.named_modules() if m._parameters}
    assert sum(e.parameters for e in report) == sum(p.numel() for p in model.parameters())
    table = format_report(report)
    odd = next(line for line in table.splitlines() if line.startswith('OddConv'))
    assert 'class kept' in odd and 'neck' in odd
    conv = next(line for line in table.splitlines() if line.startswith('Conv2d'))
    assert 'IntConv2d' in conv and ' 8 ' in conv and ' 2 ' in conv and 'backbone' in conv


@pytest.mark.parametrize(
    'settings, expected',
    [
        (dict(include=['backbone']), {'backbone.0': 8, 'backbone.1': 8, 'backbone.2': 8}),
        (dict(include=['head.*', 'neck']), {'neck.up': 8, 'head.1': 8}),
        (
            dict(exclude=['backbone.0']),
            {'backbone.1': 8, 'backbone.2': 8, 'neck.up': 8, 'head.1': 8},
        ),
        (dict(include=['backbone'], exclude=['*.0']), {'backbone.1': 8, 'backbone.2': 8}),
        (dict(exclude=['*']), {}),
        (dict(bits=4, include=['head']), {'head.1': 4}),
        (
            dict(layer_bits={'backbone': 6, 'head.?': 16}),
            {'backbone.0': 6, 'backbone.1': 6, 'backbone.2': 6, 'neck.up': 8, 'head.1': 16},
        ),
        (
            dict(layer_bits={'*': 12, 'backbone.2': 5}),
            {'backbone.0': 12, 'backbone.1': 12, 'backbone.2': 5, 'neck.up': 12, 'head.1': 12},
        ),
    ],
)
def test_patterns_choose_layers_and_bits(settings, expected):
    model = net()
    report = convert(model, **settings)
    assert integer_layers(model) == expected
    assert {e.name: e.bits for e in report if e.bits and e.after != CLASS_KEPT} == expected


BAD = [
    (dict(include=['bakbone']), "the pattern 'bakbone' was given, which matches no module"),
    (dict(exclude=['head.2']), "the pattern 'head.2' was given, which matches no module"),
    (dict(layer_bits={'hed': 8}), "the pattern 'hed' was given, which matches no module"),
    *[(dict(bits=b), f'bits={b!r} was given, integers from 4 to 16') for b in (3, 17, 8.0, '8')],
    *[
        (dict(layer_bits={'head': b}), f'bits={b!r} was given, integers from 4 to 16')
        for b in (3, 17, None)
    ],
]


@pytest.mark.parametrize('bad, message', BAD)
def test_bad_settings_are_refused_and_nothing_is_converted(bad, message):
    model = net()
    before = classes(model)
    with pytest.raises(ValueError) as error:
        convert(model, **bad)
    assert str(error.value).startswith(message) and '\n' not in str(error.value)
    assert classes(model) == before


WRONG_KIND = [
    (
        dict(exclude='head'),
        "exclude='head' was given, a list of patterns .*: write exclude=\\['head'",
    ),
    (
        dict(include='head'),
        "include='head' was given, a list of patterns .*: write include=\\['head'",
    ),
    (dict(exclude=None), 'exclude=None was given, a list of patterns is accepted: write exclude='),
    (dict(include=[8]), 'include=.8. was given, a list of patterns is accepted: write include='),
    (
        dict(layer_bits=['head']),
        r"layer_bits=\['head'\] was given, a dict of bits by pattern is acc",
    ),
    (dict(layer_bits=12), 'layer_bits=12 was given, a dict of bits by pattern is accepted: write'),
]


@pytest.mark.parametrize('bad, message', WRONG_KIND)
def test_settings_of_the_wrong_kind_are_refused_and_nothing_is_converted(bad, message):
    model = net()
    before = classes(model)
    with pytest.raises(TypeError, match=message):
        convert(model, **bad)
    assert classes(model) == before


@pytest.mark.parametrize('exclude', [[], ['1']])
def test_a_module_without_parameters_yet_is_refused_and_accepted_once_it_has_them(exclude):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyConv2d(4, 3))
    with pytest.raises(ValueError, match='1 was given, a LazyConv2d that has no parameters yet'):
        convert(model, exclude=exclude)
    assert type(model[0]) is nn.Conv2d
    model(torch.ones(1, 3, 8, 8))
    convert(model, exclude=exclude)
    assert type(model[1]) is (nn.Conv2d if exclude else IntConv2d)


def test_a_second_conversion_to_other_bits_is_refused_and_nothing_converted():
    model = net()
    convert(model, exclude=['head'])
    with pytest.raises(ValueError, match='has 8 bits already, and 4 are asked for: exclude it'):
        convert(model, bits=4)
    assert type(model.head[1]) is nn.Linear
    layer = nn.Sequential(IntLinear(2, 2, bits=6))
    with pytest.raises(ValueError, match="'0' was given, which has 6 bits already, and 8 are"):
        convert(layer)
    convert(layer, layer_bits={'0': 6})


def test_a_second_conversion_leaves_alone_what_it_excludes():
    model = net()
    convert(model, bits=6, include=['backbone'])
    convert(model, exclude=['backbone'])
    assert {layer: bits for layer, bits in integer_layers(model).items() if bits == 6} == {
        'backbone.0': 6, 'backbone.1': 6, 'backbone.2': 6,
    }  # fmt: skip
    assert (model.backbone.forward.bits, model.neck['odd'].forward.bits, model.forward.bits) == (
        6, 8, 8,
    )  # fmt: skip


def test_an_unknown_pattern_is_answered_with_the_names_there_are():
    with pytest.raises(ValueError, match='begin with backbone, neck, head$'):
        convert(net(), include=['bakbone'])


def test_converting_twice_is_harmless():
    model = net()
    convert(model, layer_bits={'head': 6})
    before = integer_layers(model)
    x = torch.randn(2, 3, 7, 7)
    with torch.no_grad():
        want = model.eval()(x)
        report = convert(model, layer_bits={'head': 6})
        assert torch.equal(model(x), want)
    assert integer_layers(model) == before
    assert {e.name: e.bits for e in report if e.bits and e.after != CLASS_KEPT} == before


def test_a_layer_used_in_two_places_stays_one_layer():
    model = net()
    model.again = model.backbone[2]
    convert(model)
    assert model.again is model.backbone[2] and type(model.again) is IntConv2d


def test_checkpoints_go_both_ways():
    model, other = net(), Net()
    checkpoint = copy.deepcopy(model.state_dict())
    convert(other)
    other.load_state_dict(checkpoint, strict=True)
    back = Net()
    back.load_state_dict(other.state_dict(), strict=True)
    for key, value in back.state_dict().items():
        assert torch.equal(value, checkpoint[key])
    pair = [copy.deepcopy(other).eval(), other.eval()]
    x = torch.randn(2, 3, 7, 7)
    with torch.no_grad():
        assert torch.equal(pair[0](x), pair[1](x))


# Real models


def detector(name, head=None):
    """A detector of mmdet from its stock config, with ResNet-18 and without downloads."""
    pytest.importorskip('mmdet')
    from mmengine.hub import get_config
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope('mmdet')
    cfg = get_config(f'mmdet::{name}').model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.in_channels = [64, 128, 256, 512]
    if head:
        cfg.bbox_head.update(head)
    torch.manual_seed(0)
    return MODELS.build(cfg)


def test_faster_rcnn_converts_whole():
    model = detector('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    params, keys = dict(model.named_parameters()), list(model.state_dict())
    checkpoint = copy.deepcopy(model.state_dict())
    report = convert(model, layer_bits={'roi_head': 10})
    assert all(p is params[n] for n, p in model.named_parameters())
    assert list(model.state_dict()) == keys
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)):
            assert isinstance(module, IntLayer), name
            assert module.bits == (10 if name.startswith('roi_head') else 8)
    assert not [e for e in report if e.arithmetic == 'float']
    float_model = detector('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    float_model.load_state_dict(model.state_dict(), strict=True)
    model.load_state_dict(checkpoint, strict=True)


def test_shared_head_layers_of_retinanet_stay_shared():
    """RetinaSepBNHead's convolutions are one object at all five pyramid levels."""
    model = detector(
        'retinanet/retinanet_r50_fpn_1x_coco.py',
        dict(type='RetinaSepBNHead', num_ins=5, norm_cfg=dict(type='BN')),
    )
    keys = list(model.state_dict())
    convert(model)
    for branch in (model.bbox_head.cls_convs, model.bbox_head.reg_convs):
        for level in branch:
            for shared, layer in zip(branch[0], level, strict=True):
                assert layer.conv is shared.conv and type(layer.conv) is IntConv2d
    assert list(model.state_dict()) == keys
    out = model.eval()(torch.randn(1, 3, 64, 64), mode='tensor')
    assert all(o.isfinite().all() for level in out for o in level)


def test_a_forward_of_the_instances_own_is_kept_where_the_class_stays():
    model = net()
    stock, called = model.forward, []
    model.forward = lambda x: called.append(1) or stock(x)
    convert(model)
    convert(model)
    model(torch.randn(1, 3, 8, 8))
    assert called == [1]


def test_a_layer_with_a_forward_of_its_own_is_refused_and_nothing_converted():
    model = net()
    model.backbone[2].forward = model.backbone[2].forward
    with pytest.raises(ValueError, match='backbone.2 was given, whose `forward` was replaced'):
        convert(model)
    assert not integer_layers(model)


def test_a_model_made_in_inference_mode_evaluates():
    with torch.inference_mode():
        model = net().eval()
        convert(model)
        assert model(torch.randn(1, 3, 8, 8)).shape == (1, 2)


@pytest.mark.parametrize('layer', ['Conv2d', '_BatchNorm', 'Linear'])
def test_mmengines_initializers_find_integer_layers(layer):
    initialize = pytest.importorskip('mmengine.model').initialize
    model = net()
    convert(model)
    initialize(model, dict(type='Constant', val=0.5, layer=layer))
    found = [m for m in model.modules() if type(m).__name__.removeprefix('Int') in STOCK[layer]]
    assert found and all((m.weight == 0.5).all() for m in found)


STOCK = {'Conv2d': ('Conv2d',), '_BatchNorm': ('BatchNorm2d',), 'Linear': ('Linear',)}
