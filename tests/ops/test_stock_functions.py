"""What stock code writes: which of it is computed in integers, and which stays in float."""

import math

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from stock_code import assert_close_at_16_bits, float_sums, in_scope, ones_place
from torch import nn

from mmint.conversion import convert
from mmint.ops.mapper import SUM_BITS

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


ADDITIONS = {
    'x + y': lambda x, y: x + y,
    'x += y': lambda x, y: x.__iadd__(y),
    'x.add(y)': lambda x, y: x.add(y),
    'x.add_(other=y)': lambda x, y: x.add_(other=y),
    'torch.add(x, y)': torch.add,
    'torch.add(input=x, other=y)': lambda x, y: torch.add(input=x, other=y),
    'sum([x, y])': lambda x, y: sum([x, y]),
}


@pytest.mark.parametrize('form', ADDITIONS)
def test_every_way_to_write_an_addition(form, calls):
    x, y = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    expected = x + y
    out = in_scope(ADDITIONS[form], x.clone(), y)
    assert calls['add'] == 1 and not torch.equal(out, expected)
    unit = ones_place(x, SUM_BITS) + ones_place(y, SUM_BITS)
    assert (out - expected).abs().max() <= unit * (1 + 2**-8)


STAYS_FLOAT = {
    'broadcast': lambda x: x + x[:1],
    'scalar': lambda x: x + 1,
    'scalar tensor': lambda x: x + torch.tensor(0.3),
    'vector': lambda x: x.flatten() + x.flatten(),
    'boxes': lambda x: x.reshape(-1, 4) + x.reshape(-1, 4),
    'boxes of images': lambda x: x.reshape(2, -1, 4) + x.reshape(2, -1, 4),
    'alpha': lambda x: x.add(x, alpha=0.5),
    'out': lambda x: torch.add(x, x, out=torch.empty_like(x)),
    'float64': lambda x: x.double() + x.double(),
    'mask': lambda x: x + torch.zeros(4, 4).masked_fill(torch.ones(4, 4) > 0, -math.inf),
    'learnt scalar': lambda x: x + nn.Parameter(torch.ones(1)),
    'points that heads share': lambda x: x[..., :2] + nn.Parameter(torch.ones(3, 1, 2)),
    'product of vectors': lambda x: x[0, 0, 0] @ x[0, 0, 0],
    'factor of a product': lambda x: torch.addmm(x[0, 0], x[0, 0], x[0, 1], alpha=0.5),
    'factor of a sum': lambda x: torch.baddbmm(x[0], x[0], x[1], beta=0.5),
    'pooling without images': lambda x: F.avg_pool2d(x[0], 2),
    'pooling by less than the window': lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    'mean of everything': lambda x: x.mean(),
    'mean of channels': lambda x: x.mean(1),
    'mean of tokens to subtract': lambda x: x.flatten(2).mean(1, keepdim=True),
    'mean of points': lambda x: x[0].mean(1),
    'pooling without a batch': lambda x: F.adaptive_avg_pool1d(x[0, 0], 2),
    'outer product': lambda x: torch.einsum('ij,k->ijk', x[0, 0], x[0, 0, 0]),
    'einsum of one': lambda x: torch.einsum('abcd->ab', x),
    'einsum of three': lambda x: torch.einsum('ab,bc,cd->ad', *[x[0, 0]] * 3),
    'einsum of a diagonal': lambda x: torch.einsum('aa,ab->b', x[0, 0], x[0, 0]),
    'padding by name': lambda x: F.conv2d(x, x[:1, :, :3, :3], padding='same'),
    'norm without eps': lambda x: F.layer_norm(x, (4,), eps=0.0),
    'norm of single values': lambda x: F.group_norm(x[:, :, 0, 0], 3),
    'norm of no images': lambda x: F.batch_norm(x[:0], torch.zeros(3), torch.ones(3)),
    'product of no rows': lambda x: x[:, :, :0] @ x,
    'product of no columns': lambda x: x @ x[..., :0],
    'product of no terms': lambda x: x[..., :0] @ x[:, :, :0],
    'einsum of no queries': lambda x: torch.einsum('bqc,bchw->bqhw', x[:, :0, :3, 0], x),
    'attention of no queries': lambda x: F.scaled_dot_product_attention(x[:, :, :0], x, x),
    'attention of no keys': lambda x: F.scaled_dot_product_attention(x, x[:, :, :0], x[:, :, :0]),
    'mean of no pixels': lambda x: x[:, :, :0].mean((2, 3)).nan_to_num(),
    'pooling to more than int64 sums': lambda x: F.adaptive_avg_pool2d(x[..., :1, :1], 200),
}


@pytest.mark.parametrize('case', STAYS_FLOAT)
def test_what_stays_in_float(case, calls):
    x = torch.randn(2, 3, 4, 4)
    out = in_scope(STAYS_FLOAT[case], x, bits=16)
    assert torch.equal(out, STAYS_FLOAT[case](x)) and not calls


WRONG = {
    'matmul': lambda x: x @ x[..., :3, :],
    'linear': lambda x: F.linear(x, x[0, 0, :, :3]),
    'conv2d': lambda x: F.conv2d(x, x[:, :2]),
    'conv_transpose2d': lambda x: F.conv_transpose2d(x, x[:2]),
    'addmm': lambda x: torch.addmm(x[0, 0, :3], x[0, 0], x[0, 1]),
    'addition': lambda x: x + x[..., :3],
    'addition in place': lambda x: x[:1].add_(x),
    'layer_norm': lambda x: F.layer_norm(x, (3,)),
    'mean': lambda x: x[0].mean(4),
    'pooling beyond the image': lambda x: F.avg_pool2d(x, 5),
    'padding beyond half the window': lambda x: F.avg_pool2d(x, 2, padding=2),
    'two masks': lambda x: F.scaled_dot_product_attention(x, x, x, x, is_causal=True),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_pytorch_refuses_is_refused_in_its_words(case):
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises((RuntimeError, IndexError)) as stock:
        WRONG[case](x)
    with pytest.raises(type(stock.value)) as ours:
        in_scope(WRONG[case], x)
    assert str(ours.value) == str(stock.value)


def torchvision_bottleneck():
    from torchvision.models.resnet import Bottleneck

    return Bottleneck(16, 4), [(2, 16, 6, 6)], 1


def mmdet_bottleneck():
    from mmdet.models.backbones.resnet import Bottleneck

    return Bottleneck(16, 4), [(2, 16, 6, 6)], 1


def mmpretrain_resnet():
    from mmpretrain.models import ResNet

    model = ResNet(18, stem_channels=8, base_channels=8, norm_eval=False)
    return model, [(2, 3, 64, 64)], 8


def mmpretrain_vit_layer():
    from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer

    return TransformerEncoderLayer(16, 2, 32), [(2, 5, 16)], 2


def mmpretrain_swin_block():
    from mmpretrain.models.backbones.swin_transformer import SwinBlock

    class Block(SwinBlock):
        def forward(self, x):
            return super().forward(x, (7, 7))

    return Block(16, 2, window_size=7), [(2, 49, 16)], 2


def mmpretrain_squeeze_and_excitation():
    from mmpretrain.models.utils import SELayer

    return SELayer(16, ratio=4), [(2, 16, 6, 6)], 0


def mmcv_swish():
    from mmcv.cnn import ConvModule

    return ConvModule(8, 8, 1, act_cfg=dict(type='Swish')), [(2, 8, 6, 6)], 0


def mmpretrain_swin_v2_block():
    from mmpretrain.models.backbones.swin_transformer_v2 import SwinBlockV2

    class Block(SwinBlockV2):
        def forward(self, x):
            return super().forward(x, (8, 8))

    return Block(16, 2, window_size=8, extra_norm=True), [(2, 64, 16)], 2


def mmpretrain_convnext_v2_block():
    from mmpretrain.models.backbones.convnext import ConvNeXtBlock

    return ConvNeXtBlock(8, norm_cfg=dict(type='LN2d'), use_grn=True), [(2, 8, 6, 6)], 3


def mmdet_fpn():
    from mmdet.models import FPN

    class OneInput(FPN):
        def forward(self, *inputs):
            return super().forward(inputs)

    return OneInput([4, 6, 8], 8, 3), [(2, 4, 16, 16), (2, 6, 8, 8), (2, 8, 4, 4)], 2


STOCK = [
    torchvision_bottleneck,
    mmdet_bottleneck,
    mmpretrain_resnet,
    mmpretrain_vit_layer,
    mmpretrain_swin_block,
    mmpretrain_swin_v2_block,
    mmpretrain_convnext_v2_block,
    mmpretrain_squeeze_and_excitation,
    mmcv_swish,
    mmdet_fpn,
]


# Gradients that meet where a view of the input is attended to, and at a mean of channels.
FLOAT_SUMS = {'mmpretrain_swin_v2_block': 1, 'mmpretrain_convnext_v2_block': 1}


@pytest.mark.parametrize('build', STOCK, ids=lambda build: build.__name__)
def test_stock_blocks_add_in_integers_forward_and_backward(build, calls):
    model, sizes, additions = build()
    inputs = [torch.randn(size, requires_grad=True) for size in sizes]
    assert float_sums(model, *inputs) > 0
    convert(model)
    with torch.no_grad():
        model(*inputs)
    assert calls['add'] == additions
    calls.clear()
    assert float_sums(model, *inputs) == FLOAT_SUMS.get(build.__name__, 0)
    assert calls['add'] > additions
    assert all(x.grad.isfinite().all() for x in inputs)


def test_a_linear_layer_written_as_a_function(calls):
    x, weight, bias = torch.randn(2, 5, 8), torch.randn(6, 8), torch.randn(6)
    assert_close_at_16_bits(lambda *args: F.linear(*args), x, weight, bias)
    assert_close_at_16_bits(lambda x, w: F.linear(input=x, weight=w), x, weight)
    assert calls['matmul'] == 6


def test_a_subclass_of_conv2d_convolves_in_integers(calls):
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    model, x = Doubled(4, 6, 3, 2, 1, groups=2), torch.randn(2, 4, 7, 7, requires_grad=True)
    expected = model(x)
    convert(model, bits=16)
    out = model(x)
    assert calls['conv2d'] == 1
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)
    grads = [torch.autograd.grad(o.sum(), (x, *model.parameters())) for o in (out, expected)]
    for actual, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-2, rtol=0)


FUNCTIONS = {
    'layer_norm': (lambda x, w, b: F.layer_norm(x, (6,), w, b), (2, 5, 6), (6,)),
    'layer_norm of two dimensions': (lambda x, *p: F.layer_norm(x, (5, 6), *p), (3, 5, 6), (5, 6)),
    'layer_norm alone': (lambda x, w, b: F.layer_norm(x, [6]) * w + b, (2, 5, 6), (6,)),
    'batch_norm': (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        (4, 3, 5, 5),
        (3,),
    ),
    'batch_norm, frozen': (
        lambda x, w, b: F.batch_norm(x, torch.ones(3) / 2, torch.ones(3) * 2, w, b),
        (4, 3, 5, 5),
        (3,),
    ),
    'group_norm': (lambda x, w, b: F.group_norm(x, 2, w, b), (2, 4, 5, 5), (4,)),
    'instance_norm': (lambda x, w, b: F.instance_norm(x, None, None, w, b), (2, 3, 5, 5), (3,)),
    'instance_norm, frozen': (
        lambda x, w, b: F.instance_norm(x, torch.zeros(3), torch.ones(3), w, b, False),
        (2, 3, 5, 5),
        (3,),
    ),
}


@pytest.mark.parametrize('case', FUNCTIONS)
def test_norms_written_as_functions(case):
    function, size, parameters = FUNCTIONS[case]
    x, weight, bias = torch.randn(size), torch.rand(parameters) + 0.5, torch.randn(parameters)
    assert_close_at_16_bits(function, x, weight, bias)


@pytest.mark.parametrize('norm', [F.batch_norm, F.instance_norm])
def test_functional_norms_move_their_running_statistics(norm):
    x, results = torch.randn(4, 3, 5, 5) + 1, []
    for compute in (norm, lambda *args: in_scope(norm, *args, bits=16)):
        mean, var = torch.zeros(3), torch.ones(3)
        compute(x, mean, var, None, None, True, 0.25)
        results.append((mean, var))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-3, rtol=0)


class Centred(nn.LayerNorm):
    """A subclass that changes nothing of the arithmetic."""

    def forward(self, x):
        return super().forward(x)


def test_subclasses_of_norms_are_integer():
    model, x = nn.Sequential(Centred(6)), torch.randn(2, 5, 6)
    expected = model(x)
    convert(model, bits=16)
    out = model(x)
    assert not torch.equal(out, expected)
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)


CONVOLUTIONS = {
    'conv1d': (lambda x, w, b: F.conv1d(x, w, b, 2, 1), (2, 4, 9), (6, 4, 3), 6),
    'conv1d of groups': (
        lambda x, w, b: F.conv1d(x, w, b, padding=2, dilation=2, groups=2),
        (2, 4, 9),
        (6, 2, 3),
        6,
    ),
    'conv3d': (lambda x, w, b: F.conv3d(x, w, b, padding=1), (1, 2, 4, 5, 5), (3, 2, 3, 3, 3), 3),
    'conv_transpose1d': (
        lambda x, w, b: F.conv_transpose1d(x, w, b, 2, output_padding=1),
        (2, 4, 5),
        (4, 3, 3),
        3,
    ),
    'conv_transpose2d': (
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 0, 2),
        (2, 4, 5, 5),
        (4, 3, 4, 4),
        6,
    ),
}


@pytest.mark.parametrize('case', CONVOLUTIONS)
def test_convolutions_written_as_functions(case):
    function, size, weight, channels = CONVOLUTIONS[case]
    tensors = torch.randn(size), torch.randn(weight) / 4, torch.randn(channels)
    assert_close_at_16_bits(function, *tensors)
