"""What stock code writes: which of it is computed in integers, and which stays in float."""

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from stock_code import assert_close_at_16_bits, float_sums, in_scope, ones_place
from torch import nn

from mmint.conversion import convert
from mmint.ops.function import SUM_BITS

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
    'vector product': lambda x: x @ x[0, 0, 0],
    'pooling without images': lambda x: F.avg_pool2d(x[0], 2),
    'pooling by less than the window': lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    'mean of everything': lambda x: x.mean(),
    'mean of channels': lambda x: x.mean(1),
    'outer product': lambda x: torch.einsum('ij,k->ijk', x[0, 0], x[0, 0, 0]),
    'einsum of one': lambda x: torch.einsum('abcd->ab', x),
    'einsum of three': lambda x: torch.einsum('ab,bc,cd->ad', *[x[0, 0]] * 3),
    'einsum of a diagonal': lambda x: torch.einsum('aa,ab->b', x[0, 0], x[0, 0]),
    'padding by name': lambda x: F.conv2d(x, x[:1, :, :3, :3], padding='same'),
    'position embedding': lambda x: x + nn.Parameter(torch.ones(x.shape)),
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
    'pooling beyond the image': lambda x: F.avg_pool2d(x, 5),
    'padding beyond half the window': lambda x: F.avg_pool2d(x, 2, padding=2),
    'two masks': lambda x: F.scaled_dot_product_attention(x, x, x, x, is_causal=True),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_pytorch_refuses_is_refused_in_its_words(case):
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(RuntimeError) as stock:
        WRONG[case](x)
    with pytest.raises(RuntimeError) as ours:
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
    mmpretrain_squeeze_and_excitation,
    mmcv_swish,
    mmdet_fpn,
]
BROADCAST_SUMS = {'mmpretrain_swin_block': 1}  # the bias of the scores, a table for each head


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
    assert float_sums(model, *inputs) == BROADCAST_SUMS.get(build.__name__, 0)
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
