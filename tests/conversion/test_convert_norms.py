"""Norms of PyTorch and OpenMMLab become integer norms."""

import copy

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from mmint.conversion import convert
from mmint.layers import (
    IntBatchNorm,
    IntBatchNorm2d,
    IntFrozenBatchNorm2d,
    IntGroupNorm,
    IntLayerNorm,
    IntLayerNorm2d,
    IntSyncBatchNorm,
)

pytestmark = pytest.mark.usefixtures('fresh_run')


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


def small_resnet():
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.SyncBatchNorm(8), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 4)
    return nn.Sequential(*stem, Block(8), nn.GroupNorm(2, 8), Block(8), *head)


def test_a_resnet_converts_whole_and_stays_interchangeable(backend):
    model = small_resnet()
    params, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    state = copy.deepcopy(model.state_dict())
    convert(model, bits=16)
    classes = {type(m) for m in model.modules()}
    assert {IntBatchNorm2d, IntSyncBatchNorm, IntGroupNorm, IntLayerNorm} <= classes
    assert all(p is params[n] for n, p in model.named_parameters())
    assert all(b is buffers[n] for n, b in model.named_buffers())
    assert list(model.state_dict()) == list(state)
    twin = small_resnet().double()
    twin.load_state_dict(state)
    x = torch.randn(4, 3, 17, 17)
    got, want = model(x), twin(x.double())
    assert (got - want).abs().max() <= 2.0**-8 * want.abs().max()
    got.square().sum().backward()
    want.square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 2.0**-5 * q.grad.norm()  # ReLUs may flip
    small_resnet().load_state_dict(model.state_dict(), strict=True)


def test_nothing_is_converted_if_a_norm_has_no_integer_counterpart():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0))
    with pytest.raises(ValueError, match=r'eps=0 was given to a BatchNorm2d'):
        convert(model)
    assert type(model[0]) is nn.Conv2d
    convert(model, exclude=['1'])


def test_norms_of_openmmlab(backend):
    cnn = pytest.importorskip('mmcv.cnn')
    utils = pytest.importorskip('mmengine.model.utils')
    for name, kwargs, abbreviation in (
        ('IntBatchNorm2d', {}, 'bn'),
        ('IntSyncBatchNorm', dict(requires_grad=False), 'bn'),
        ('IntInstanceNorm2d', {}, 'in'),
        ('IntGroupNorm', dict(num_groups=2), 'gn'),
        ('IntLayerNorm', {}, 'ln'),
    ):
        key, layer = cnn.build_norm_layer(dict(type=name, **kwargs), 8, postfix=1)
        assert key == f'{abbreviation}1' and layer.bits == 8
        assert layer(torch.randn(2, 8, 3, 8)).shape == (2, 8, 3, 8)
    model = nn.Sequential(
        utils.revert_sync_batchnorm(nn.SyncBatchNorm(8)),
        cnn.build_norm_layer(dict(type='SyncBN'), 8)[1],
        cnn.build_norm_layer(dict(type='GN', num_groups=2), 8)[1],
    )
    stock = [type(m) for m in model]
    convert(model)
    for m, *kinds in zip(model, [IntBatchNorm, IntSyncBatchNorm, IntGroupNorm], stock, strict=True):
        assert all(isinstance(m, kind) for kind in kinds)


def test_channels_first_layer_norm_of_mmpretrain_is_converted(backend):
    stock = pytest.importorskip('mmpretrain.models.utils').LayerNorm2d(6)
    model = nn.Sequential(stock)
    x = torch.randn(2, 6, 4, 5)
    want = model(x)
    convert(model, bits=16)
    assert isinstance(model[0], IntLayerNorm2d)
    assert (model(x) - want).abs().max() < 2.0**-10


@pytest.mark.parametrize('module', ['torchvision.ops', 'mmdet.models.layers'])
@pytest.mark.parametrize('eps', [1e-5, 0.0])
@pytest.mark.parametrize('training', [True, False])
def test_frozen_batch_norms_are_converted(module, eps, training, backend):
    """Their parameters are buffers; torchvision sets ``eps`` to 0 for its trained weights."""
    kind = pytest.importorskip(module).FrozenBatchNorm2d
    stock = kind(6, eps=eps)
    for name, buffer in stock.named_buffers():
        buffer.copy_(torch.rand(6) + 0.5 if 'var' in name else torch.randn(6))
    model = nn.Sequential(stock).train(training)
    x, grad = torch.randn(2, 6, 4, 5, requires_grad=True), torch.randn(2, 6, 4, 5)
    want = model(x)
    (want_grad,) = torch.autograd.grad(want, x, grad)
    convert(model, bits=16)
    assert isinstance(model[0], IntFrozenBatchNorm2d) and isinstance(model[0], kind)
    got = model(x)
    assert (got - want).abs().max() < 2.0**-10
    assert (torch.autograd.grad(got, x, grad)[0] - want_grad).abs().max() < 2.0**-10
    # Torchvision's drops the count of batches, which batch norm saves, and still does so.
    batch_norm = nn.Sequential(nn.BatchNorm2d(6)).state_dict()
    model.load_state_dict(dict(batch_norm), strict='torchvision' in module)
    assert (model[0].weight == 1).all() and not list(model.parameters())
