"""Convolutions of signals and volumes: sums over all axes exact, rounded once, on every backend."""

import pytest
import torch
import torch.nn.functional as F
from comparison import BITS, mantissas
from torch.nn.grad import conv1d_input, conv1d_weight, conv3d_input, conv3d_weight

from mmint.backends import Geometry, cpu, cuda, reference
from mmint.backends.magnitudes import known_magnitude
from mmint.numerics import FixedPoint
from mmint.ops import volumes

AXES = {
    1: (F.conv1d, conv1d_input, conv1d_weight),
    3: (F.conv3d, conv3d_input, conv3d_weight),
}
# Of input and weight, and the geometry; 16 bits where float32 has to round the sums.
CASES = {
    'signal': ((2, 4, 11), (6, 2, 3), Geometry((2,), (1,), (2,), 2), 8),
    'volume': ((2, 3, 4, 4, 5), (5, 3, 2, 3, 2), Geometry((1,) * 3, (1, 1, 0), (1,) * 3), 8),
    'rounded': ((2, 3, 4, 3, 3), (2, 3, 3, 3, 1), Geometry((1,) * 3, (1, 1, 0), (1,) * 3), 16),
    'strides': ((1, 2, 9, 4, 3), (3, 2, 3, 2, 1), Geometry((3, 2, 1), (2, 0, 1), (2, 1, 1)), 8),
    'groups': ((2, 4, 3, 3, 4), (6, 2, 2, 1, 3), Geometry((2, 1, 1), (1, 0, 1), (1,) * 3, 2), 8),
    'depthwise': ((2, 3, 4, 3, 3), (3, 1, 3, 3, 3), Geometry((1,) * 3, (1,) * 3, (1,) * 3, 3), 8),
}


def operands(case):
    x_size, weight_size, geometry, bits = CASES[case]
    size = (x_size[0], weight_size[0], *geometry.output_size(x_size[2:], weight_size[2:]))
    shapes = x_size, weight_size, size
    return *(mantissas(shape, bits, exponent=-9) for shape in shapes), geometry


def results(backend, x, weight, grad, geometry):
    """The three products, without a bias and with one."""
    for bias in (False, True):
        biases = (
            torch.randn(n) if bias else None for n in (len(weight.mantissa), x.mantissa.shape[1])
        )
        yield volumes.conv(backend, x, weight, geometry, next(biases), BITS)
        size = x.mantissa.shape
        yield volumes.conv_input_grad(backend, grad, weight, size, geometry, next(biases), BITS)
    yield volumes.conv_weight_grad(backend, grad, x, weight.mantissa.shape, geometry)


@pytest.mark.parametrize('case', CASES)
def test_sums_are_those_of_the_integers_rounded_once(case):
    *fixed, geometry = operands(case)
    conv, input_grad, weight_grad = AXES[len(geometry.stride)]
    x, weight, grad = (f.mantissa.double() for f in fixed)
    out, grad_x, *_, grad_weight = results(reference, *fixed, geometry)
    for got, want in (
        (out, conv(x, weight, None, *geometry)),
        (grad_x, input_grad(x.shape, weight, grad, *geometry)),
        (grad_weight, weight_grad(x, weight.shape, grad, *geometry)),
    ):
        assert torch.equal(got, (want * 2.0**-18).float())
        assert got.is_contiguous()
    assert not (out._is_view() or grad_x._is_view())  # a layer after may change them in place


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('name', ['cpu', 'cuda'])
def test_every_backend_has_the_bits_of_the_reference(case, name, request):
    if name == 'cuda':
        request.getfixturevalue('emulated')
    elif not cpu.available():
        pytest.skip('the C kernels are not built')
    given = operands(case)
    backend = {'cpu': cpu, 'cuda': cuda}[name]
    for got, want in zip(all_of(backend, given), all_of(reference, given), strict=True):
        assert torch.equal(got, want)


def all_of(backend, given):
    torch.manual_seed(1)
    return list(results(backend, *given))


def test_the_largest_magnitude_is_noted():
    """For the next mapping, as the convolution of images notes it."""
    if cpu.available():
        for out in all_of(cpu, operands('volume'))[:2]:
            assert known_magnitude(out) == int((out.view(torch.int32) & 0x7FFFFFFF).max())


def test_a_volume_of_one_slice_is_an_image():
    x, weight = mantissas((2, 3, 5, 6)), mantissas((4, 3, 3, 3))
    deep = [FixedPoint(f.mantissa[:, :, None], f.exponent, f.bits) for f in (x, weight)]
    geometry = Geometry((1, 2, 1), (0, 1, 1), (1, 1, 1))
    out = volumes.conv(reference, *deep, geometry)
    assert torch.equal(out[:, :, 0], reference.conv2d(x, weight, Geometry((2, 1), (1, 1))))
