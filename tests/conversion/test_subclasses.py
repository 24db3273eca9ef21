"""Subclasses of stock layers: converted where they compute the same, as what they were too."""

import copy
import pickle

import pytest
import torch
from torch import nn

import mmint
from mmint.conversion import convert
from mmint.conversion.registered import integer_class
from mmint.layers import IntBatchNorm, IntConv2d, IntConv3d, IntLayer, IntLayerNorm, IntLinear


class Near(nn.LayerNorm):
    """Other arguments, another initial value, another text, a method of its own."""

    def __init__(self, size):
        super().__init__(size, eps=1e-3)
        self.reset()

    def reset(self):
        nn.init.constant_(self.weight, 2.0)

    def extra_repr(self):
        return 'near'


class Nearer(Near):
    """A subclass of a subclass."""


class NoDepth(nn.Conv3d):
    def __init__(self, channels, groups=1):
        super().__init__(channels, channels, (1, 3, 3), padding=(0, 1, 1), groups=groups)


class AnyDims(nn.BatchNorm2d):
    def _check_input_dim(self, x):
        pass


class OwnForward(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x) * 2


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


class OwnWeight(nn.Linear):
    @property
    def weight(self):
        return self.direction * 2

    @weight.setter
    def weight(self, value):
        self.direction = value


class Doubling:
    def _conv_forward(self, x, weight, bias):
        return 2 * super()._conv_forward(x, weight, bias)


class Mixed(Doubling, nn.Conv2d):
    """Its ``forward`` is the stock one, which calls the mixin's method."""


@pytest.mark.parametrize(
    'module, becomes, size',
    [
        (Near(6), IntLayerNorm, (2, 3, 6)),
        (Nearer(6), IntLayerNorm, (2, 3, 6)),
        (NoDepth(4, groups=2), IntConv3d, (1, 4, 2, 5, 5)),
        (AnyDims(6), IntBatchNorm, (2, 6, 3, 4, 5)),
        (nn.modules.linear.NonDynamicallyQuantizableLinear(6, 2), IntLinear, (3, 6)),
    ],
)
def test_a_subclass_that_computes_the_same_is_converted(module, becomes, size):
    model, stock = nn.Sequential(copy.deepcopy(module)), type(module)
    x = torch.randn(size)
    want = model(x)
    (entry,) = convert(model, bits=16)
    assert (entry.before, entry.after) == (stock.__name__, becomes.__name__)
    assert isinstance(model[0], becomes) and isinstance(model[0], stock)
    assert (model(x) - want).abs().max() <= 2.0**-10 * want.abs().max()
    assert integer_class(type(model[0])) is None


@pytest.mark.parametrize(
    'kind', [OwnForward, OwnConvForward, OwnWeight, Mixed], ids=lambda kind: kind.__name__
)
def test_one_that_computes_something_else_keeps_its_class(kind):
    assert integer_class(kind) is None


def test_parametrized_layers_keep_their_class():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    convert(nn.Sequential(layer))
    assert not isinstance(layer, IntLayer)


def test_the_rest_of_the_class_is_kept():
    model = nn.Sequential(Near(6))
    convert(model)
    assert repr(model[0]) == 'IntLayerNorm(near, bits=8)'
    model[0].weight.data.zero_()
    model[0].reset()
    assert (model[0].weight == 2).all()


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles_are_of_the_same_class(duplicate):
    model = nn.Sequential(Near(6), nn.LayerNorm(6))
    convert(model, bits=6)
    other = duplicate(model)
    assert [type(m) for m in other] == [type(m) for m in model] and other[0].bits == 6
    x = torch.randn(2, 6)
    assert torch.equal(other.eval()(x), model.eval()(x))
    assert type(mmint.restore(other)[0]) is Near


def test_two_modules_of_a_class_become_one_class():
    model = nn.Sequential(Near(6), Near(6))
    convert(model)
    assert type(model[0]) is type(model[1])


def test_wrappers_of_mmcv_pass_the_checks_of_stock_code():
    """Heads ask ``isinstance(m, mmcv.cnn.Conv2d)``, mmengine's initializers for names of bases."""
    cnn, initialize = (
        pytest.importorskip('mmcv.cnn'),
        pytest.importorskip('mmengine.model').initialize,
    )
    wrappers = cnn.bricks.wrappers
    model = nn.Sequential(
        cnn.Conv2d(3, 3, 1), cnn.ConvTranspose2d(3, 3, 1), cnn.Linear(3, 3),
        wrappers.Conv3d(3, 3, 1), wrappers.ConvTranspose3d(3, 3, 1),
    )  # fmt: skip
    stock = [type(m) for m in model]
    convert(model)
    for module, kind in zip(model, stock, strict=True):
        assert isinstance(module, IntLayer) and isinstance(module, kind)
        initialize(model, dict(type='Constant', val=0.25, layer=kind.__name__))
        assert (module.weight == 0.25).all()


@pytest.mark.parametrize('name, size', [('Conv1d', (2, 3, 8)), ('Conv3d', (2, 3, 4, 6, 5))])
def test_conv_modules_of_every_kind_convert(name, size):
    cnn = pytest.importorskip('mmcv.cnn')
    norm = dict(type=f'BN{name[4]}d')
    x = torch.randn(size)
    float_model = cnn.ConvModule(3, 4, 3, conv_cfg=dict(type=name), norm_cfg=norm)
    want = float_model(x)
    report = convert(float_model, bits=16)
    assert [e.arithmetic for e in report] == ['integer', 'integer', 'exact']
    assert (float_model.eval()(x) - float_model(x)).abs().max() == 0
    assert (float_model.train()(x) - want).abs().max() <= 2.0**-8 * want.abs().max()
    by_name = cnn.ConvModule(3, 4, 3, conv_cfg=dict(type=f'Int{name}', bits=6))
    assert type(by_name.conv).__name__ == f'Int{name}' and by_name.conv.bits == 6


def test_a_wrapped_convolution_computes_what_the_plain_one_does():
    wrapped, plain = pytest.importorskip('mmcv.cnn').Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    plain.load_state_dict(wrapped.state_dict())
    x = torch.randn(1, 3, 6, 6)
    outs = []
    for layer in (wrapped, plain):
        model = nn.Sequential(layer).eval()
        convert(model)
        outs.append(model(x))
        assert isinstance(layer, IntConv2d)
    assert torch.equal(*outs)
