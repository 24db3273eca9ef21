"""What a layer refuses, and what it says."""

import math

import pytest
import torch
import torch.utils.checkpoint
from layer_cases import build, run

from mmint.backends import NonFiniteError
from mmint.layers import (
    IntConv1d,
    IntConv2d,
    IntConv3d,
    IntConvTranspose2d,
    IntConvTranspose3d,
    IntInstanceNorm2d,
    IntLinear,
)
from mmint.ops.run import current_run

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


@pytest.mark.parametrize(
    ('layer', 'shape', 'message'),
    [
        (IntLinear(10, 5), (2, 12), r'of shape \(2, 12\), 10 is accepted in dimension -1'),
        (IntConv2d(3, 8, 3), (1, 4, 8, 8), '3 is accepted in dimension -3'),
        (IntConv2d(4, 8, 3, groups=2), (1, 5, 8, 8), '4 is accepted in dimension -3'),
        (IntConvTranspose2d(3, 8, 3), (1, 4, 8, 8), '3 is accepted in dimension -3'),
        (IntConv2d(3, 8, 3), (8, 8), 'one of 3 or 4 dimensions is accepted'),
        (IntConv2d(3, 8, 3, dilation=2), (1, 3, 4, 9), 'at least 5 in dimension 2 is accepted'),
        (IntConv1d(3, 8, 3), (1, 4, 9), '3 is accepted in dimension -2'),
        (IntConv1d(3, 8, 3), (1, 3, 2), 'at least 3 in dimension 2 is accepted'),
        (IntConv3d(3, 8, 3), (1, 3, 9), 'one of 4 or 5 dimensions is accepted'),
        (IntConv3d(3, 8, 3), (1, 3, 2, 9, 9), 'at least 3 in dimension 2 is accepted'),
        (IntConv3d(3, 8, 3), (1, 3, 9, 9, 2), 'at least 3 in dimension 4 is accepted'),
        (
            IntConvTranspose3d(3, 8, 1, padding=2),
            (1, 3, 2, 9, 9),
            'have -2 elements in dimension 2, at least 1',
        ),
        (IntInstanceNorm2d(3), (1, 3, 1, 1), 'more than 1 value per channel and image'),
        (IntInstanceNorm2d(3, affine=True), (1, 4, 5, 5), '3 is accepted in dimension -3'),
    ],
)
def test_an_input_of_another_shape_is_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(shape))


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
@pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
)
def test_an_input_that_is_not_float32_is_refused(case, dtype):
    layer, _, x, _ = build(case)
    layer.site.name = 'neck.lateral'
    with pytest.raises(
        TypeError, match=f'^neck.lateral was given an input of {dtype}, torch.float32 is accepted'
    ):
        layer(x.to(dtype))


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
def test_an_input_on_another_device_is_refused(case):
    layer, _, x, _ = build(case)
    layer.site.name = 'neck.lateral'
    with pytest.raises(ValueError, match='^neck.lateral was given an input on meta, one on cpu'):
        layer(x.to('meta'))


@pytest.mark.parametrize('case', ['conv-3x3', 'conv1d', 'conv3d', 'transposed-stride', 'linear'])
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('tensor', ['an input', 'a weight', 'a bias', 'a gradient'])
def test_a_non_finite_value_is_reported_with_layer_tensor_and_iteration(case, value, tensor):
    layer, _, x, grad = build(case)
    layer.site.name = 'neck.lateral'
    current_run.begin_iteration(41)
    target = {'an input': x, 'a weight': layer.weight, 'a bias': layer.bias, 'a gradient': grad}
    target[tensor].detach().view(-1)[-1] = value
    with pytest.raises(
        NonFiniteError, match=f'^neck.lateral was given {tensor} with .* in iteration 41, '
    ):
        run(layer, x, grad)


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
def test_a_non_finite_bias_is_reported_where_all_products_are_zero(case):
    layer, _, x, _ = build(case)
    layer.bias.detach()[0] = math.nan
    with pytest.raises(NonFiniteError):
        layer(torch.zeros_like(x))


@pytest.mark.parametrize('bits', [3, 17, 8.0, '8', True])
@pytest.mark.parametrize('layer', [IntConv2d, IntConvTranspose2d])
def test_bits_outside_4_to_16_are_refused(layer, bits):
    with pytest.raises(ValueError, match='bits=.* was given, integers from 4 to 16 are accepted'):
        layer(3, 3, 1, bits=bits)
    with pytest.raises(ValueError, match='bits=.* was given, integers from 4 to 16 are accepted'):
        IntLinear(3, 3, bits=bits)
