"""Convolutions and linear layers of every kind, and a step of one of them."""

import copy
import math

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from mmint import layers


def conv(*args, axes=2, **kwargs):
    name = f'Conv{axes}d'
    return getattr(layers, f'Int{name}'), getattr(nn, name), args, kwargs


def transposed(*args, axes=2, **kwargs):
    name = f'ConvTranspose{axes}d'
    return getattr(layers, f'Int{name}'), getattr(nn, name), args, kwargs


def linear(*args, **kwargs):
    return layers.IntLinear, nn.Linear, args, kwargs


CASES = {
    'conv-1x1': (conv(5, 7, 1), (2, 5, 6, 4)),
    'conv-3x3': (conv(5, 7, 3, padding=1), (2, 5, 9, 8)),
    'conv-no-bias': (conv(5, 7, 3, bias=False), (2, 5, 9, 8)),
    'conv-stride': (conv(3, 8, 7, stride=2, padding=3), (2, 3, 17, 15)),
    'conv-leftover-rows': (conv(3, 4, 3, stride=3), (2, 3, 11, 10)),
    'conv-rectangular': (conv(3, 4, (3, 2), (2, 1), (0, 1), (1, 3)), (2, 3, 12, 9)),
    'conv-dilation': (conv(4, 6, 3, padding=4, dilation=4), (2, 4, 9, 10)),
    'conv-groups': (conv(6, 9, 3, padding=1, groups=3), (2, 6, 7, 5)),
    'conv-depthwise': (conv(6, 6, 3, stride=2, padding=1, groups=6), (2, 6, 9, 9)),
    'conv-depth-multiplier': (conv(4, 8, 3, groups=4), (2, 4, 6, 7)),
    'conv-padding-same': (conv(3, 4, 4, padding='same'), (2, 3, 7, 8)),
    'conv-padding-valid': (conv(3, 4, 3, padding='valid'), (2, 3, 7, 8)),
    'conv-reflect': (conv(3, 4, 3, padding=2, padding_mode='reflect'), (2, 3, 7, 8)),
    'conv-replicate': (conv(3, 4, 3, padding=1, padding_mode='replicate'), (2, 3, 7, 8)),
    'conv-circular': (conv(3, 4, 3, padding=(1, 2), padding_mode='circular'), (2, 3, 7, 8)),
    'conv-one-image': (conv(3, 4, 3, padding=1), (3, 7, 8)),
    'conv-empty-batch': (conv(3, 4, 3, padding=1), (0, 3, 7, 8)),
    'conv-one-pixel': (conv(3, 4, 1), (1, 3, 1, 1)),
    'conv-many-channels': (conv(130, 67, 1), (1, 130, 3, 3)),
    'conv1d': (conv(5, 7, 3, axes=1), (2, 5, 9)),
    'conv1d-stride': (conv(4, 6, 3, 2, 1, 2, groups=2, bias=False, axes=1), (2, 4, 11)),
    'conv1d-depthwise': (conv(4, 4, 3, padding=1, groups=4, axes=1), (2, 4, 11)),
    'conv1d-padding-same': (conv(3, 4, 4, padding='same', axes=1), (2, 3, 8)),
    'conv1d-circular': (conv(3, 4, 3, padding=2, padding_mode='circular', axes=1), (2, 3, 8)),
    'conv1d-one-image': (conv(3, 4, 3, axes=1), (3, 8)),
    'conv1d-empty-batch': (conv(3, 4, 3, axes=1), (0, 3, 8)),
    'conv3d': (conv(3, 4, 3, padding=1, axes=3), (2, 3, 4, 5, 6)),
    'conv3d-1x1x1': (conv(3, 4, 1, bias=False, axes=3), (2, 3, 4, 5, 3)),
    'conv3d-stride': (conv(3, 4, (3, 2, 3), (2, 1, 2), (1, 0, 1), axes=3), (2, 3, 7, 5, 6)),
    'conv3d-leftover-slices': (conv(3, 4, 2, stride=3, axes=3), (2, 3, 7, 5, 6)),
    'conv3d-dilation': (conv(2, 3, 3, 1, (4, 2, 2), (4, 2, 2), axes=3), (2, 2, 6, 5, 6)),
    'conv3d-groups': (conv(4, 6, (2, 3, 1), groups=2, axes=3), (2, 4, 4, 5, 3)),
    'conv3d-depthwise': (conv(4, 4, 3, padding=1, groups=4, axes=3), (2, 4, 3, 4, 3)),
    'conv3d-taps-in-the-padding': (
        conv(2, 3, (5, 1, 1), padding=(2, 0, 0), axes=3),
        (2, 2, 1, 3, 2),
    ),
    'conv3d-padding-same': (conv(2, 3, (4, 2, 1), padding='same', axes=3), (2, 2, 5, 4, 3)),
    'conv3d-padding-valid': (conv(2, 3, 2, padding='valid', axes=3), (2, 2, 5, 4, 3)),
    'conv3d-replicate': (
        conv(2, 3, 3, padding=1, padding_mode='replicate', axes=3),
        (2, 2, 4, 4, 3),
    ),
    'conv3d-one-image': (conv(2, 3, 2, axes=3), (2, 4, 4, 3)),
    'conv3d-empty-batch': (conv(2, 3, 2, axes=3), (0, 2, 4, 4, 3)),
    'transposed': (transposed(5, 7, 3), (2, 5, 6, 4)),
    'transposed-stride': (transposed(4, 6, 4, stride=2, padding=1), (2, 4, 5, 7)),
    'transposed-output-padding': (
        transposed(4, 6, 3, stride=2, padding=1, output_padding=1),
        (2, 4, 5, 7),
    ),
    'transposed-dilation': (transposed(4, 6, 3, padding=2, dilation=2), (2, 4, 5, 7)),
    'transposed-groups': (transposed(4, 6, 3, stride=2, groups=2, bias=False), (2, 4, 5, 7)),
    'transposed-depthwise': (transposed(4, 4, 4, stride=2, padding=1, groups=4), (2, 4, 5, 5)),
    'transposed-one-image': (transposed(3, 4, 2, stride=2), (3, 7, 8)),
    'transposed-empty-batch': (transposed(3, 4, 2, stride=2), (0, 3, 7, 8)),
    'transposed1d': (transposed(4, 6, 3, 2, 1, 1, groups=2, axes=1), (2, 4, 9)),
    'transposed1d-one-image': (transposed(3, 4, 3, axes=1), (3, 9)),
    'transposed3d': (transposed(3, 4, (3, 2, 3), axes=3), (2, 3, 4, 3, 4)),
    'transposed3d-stride': (transposed(3, 4, 3, 2, 1, 1, axes=3), (2, 3, 3, 2, 4)),
    'transposed3d-groups': (transposed(4, 6, 2, groups=2, bias=False, axes=3), (2, 4, 3, 2, 4)),
    'transposed3d-dilation': (
        transposed(2, 3, 3, padding=2, dilation=(3, 2, 1), axes=3),
        (2, 2, 3, 3, 4),
    ),
    'transposed3d-empty-batch': (transposed(3, 4, 2, axes=3), (0, 3, 3, 2, 4)),
    'linear': (linear(20, 9), (6, 20)),
    'linear-no-bias': (linear(20, 9, bias=False), (6, 20)),
    'linear-vector': (linear(20, 9), (20,)),
    'linear-tokens': (linear(12, 8), (2, 3, 5, 12)),
    'linear-empty-batch': (linear(12, 8), (0, 12)),
    'linear-one-output': (linear(65, 1), (33, 65)),
}
cases = pytest.mark.parametrize('case', CASES)


def build(case, bits=8, seed=0):
    """An integer layer, its float64 twin, an input and an output gradient."""
    (integer, stock, args, kwargs), size = CASES[case]
    torch.manual_seed(seed)
    layer = integer(*args, bits=bits, **kwargs)
    twin = stock(*args, **kwargs).double()
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(size)
    grad = torch.randn(twin(x.double()).shape) / 50
    return layer, twin, x, grad


def run(layer, x, grad):
    """Output, and gradients of input, weight and bias (None without a bias)."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out = layer(x)
    out.backward(grad)
    bias = layer.bias
    return out.detach(), x.grad, layer.weight.grad.clone(), None if bias is None else bias.grad


def products(twin, x, weight, grad):
    """The four bilinear forms of a layer without bias, in float64."""
    twin = copy.deepcopy(twin)
    twin.weight.data = weight
    if twin.bias is not None:
        twin.bias.data.zero_()
    return run(twin, x, grad)


def unit(x, bits):
    """The most by which mapping ``x`` may change an element: one unit of its grid."""
    top = float(x.detach().abs().max()) if x.numel() else 0.0
    if top == 0:
        return 0.0
    p = bits - 1
    exponent = max(math.frexp(top)[1], -125) - p
    return 2.0**exponent * (2 if top > (2**p - 1) * 2.0**exponent else 1)


def units(x, bits, groups, axis):
    """The unit of each element of ``x``, where each group along an axis has an exponent."""
    parts = x.detach().chunk(groups, axis)
    alike = [torch.full_like(p, unit(p, bits), dtype=torch.float64) for p in parts]
    return torch.cat(alike, axis)


def weight_units(layer):
    """The unit of each of the weight's elements, in the forward pass and in the input gradient."""
    weight, groups = layer.weight, getattr(layer, 'groups', 1)
    if groups > 1:
        return [units(weight, 8, groups, 0)] * 2
    axes = (1, 0) if getattr(layer, 'transposed', False) else (0, 1)
    return [units(weight, 8, weight.shape[axis], axis) for axis in axes]


def bias_units(layer, of_x, of_weight):
    """The unit of each of the bias's elements: of the input's times of the weight's."""
    groups = getattr(layer, 'groups', 1)
    axis = 1 if groups == 1 and getattr(layer, 'transposed', False) else 0
    each = [t.movedim(a, 0).flatten(1)[:, 0] for t, a in ((of_x, 1), (of_weight, axis))]
    of_groups = each[0][:: len(each[0]) // groups]
    if groups > 1:
        each[1] = each[1][:: len(each[1]) // groups]
    steps = of_groups * each[1]
    return steps.repeat_interleave(len(layer.bias) // len(steps))


def mapped(x, bits, random, step=None):
    """The contract's formula in float64: mantissas times unit, exact."""
    step = unit(x, bits) if step is None else step
    if random is None:
        return torch.round(x.double() / step) * step
    drawn = random.draw(x.numel()).view(x.shape)
    fine = torch.trunc(x.double() / step * 2**16)
    return torch.floor((fine + drawn) / 2**16) * step
