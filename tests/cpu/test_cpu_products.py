"""The C products against the reference, bit for bit."""

import itertools
import math
import random as rng

import pytest
import torch
from comparison import (
    BITS,
    DENSE,
    GROUPED,
    Comparison,
    assert_same,
    mantissas,
)

from mmint.backends import Geometry, NonFiniteError, cpu, reference
from mmint.numerics import FixedPoint

check = Comparison(cpu, int)
pytestmark = pytest.mark.skipif(not cpu.available(), reason='the C kernels are not built')


def random_geometry(pick):
    """One convolution: sizes, geometry, and its three tensors' shapes."""
    groups = pick.choice([1, 1, 1, 2, 3])
    kernel = pick.choice([(1, 1), (1, 1), (3, 3), (3, 3), (1, 3), (2, 2), (5, 4), (7, 7)])
    stride = pick.choice([(1, 1), (1, 1), (2, 2), (1, 2), (3, 2)])
    dilation = pick.choice([(1, 1), (1, 1), (2, 2), (3, 1), (6, 6)])
    padding = (pick.randint(0, 3), pick.randint(0, 6))
    depthwise = pick.random() < 0.2
    c = pick.choice([1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 70])
    o = pick.choice([1, 2, 5, 6, 7, 12, 16, 31, 64, 67])
    if depthwise:
        groups, per_group, filters = c, 1, c
    else:
        per_group, filters = c, o * groups
    span = [dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    size = [max(pick.randint(1, 23), span[i] - 2 * padding[i]) for i in (0, 1)]
    x = (pick.randint(1, 3), per_group * groups, *size)
    weight = (filters, per_group, *kernel)
    out = [(size[i] + 2 * padding[i] - span[i]) // stride[i] + 1 for i in (0, 1)]
    return Geometry(stride, padding, dilation, groups), x, weight, (x[0], filters, *out)


def check_convolution(
    geometry, x_shape, weight_shape, out_shape, bits, exponent=-9, bias_scale=1.0
):
    x, weight = mantissas(x_shape, bits[0], exponent), mantissas(weight_shape, bits[1], exponent)
    grad = mantissas(out_shape, bits[0], exponent)
    if bits[0] <= 8:  # half of them as they come, half as the backend keeps them
        x = x._replace(mantissa=x.mantissa.contiguous(memory_format=torch.channels_last))
    for bias, random in ((None, None), (bias_scale, None), (bias_scale, BITS)):
        b = None if bias is None else torch.randn(weight_shape[0]) * bias
        check.assert_same_with_top(
            cpu.conv2d(x, weight, geometry, b, random),
            reference.conv2d(x, weight, geometry, b, random),
        )
        b = None if bias is None else torch.randn(x_shape[1]) * bias
        check.assert_same_with_top(
            cpu.conv2d_input_grad(grad, weight, x_shape, geometry, b, random),
            reference.conv2d_input_grad(grad, weight, x_shape, geometry, b, random),
        )
    assert_same(
        cpu.conv2d_weight_grad(grad, x, weight_shape, geometry),
        reference.conv2d_weight_grad(grad, x, weight_shape, geometry),
    )


@pytest.mark.parametrize('seed', range(40))
def test_convolution(level, seed):
    torch.manual_seed(seed)
    pick = rng.Random(seed)
    geometry, x, weight, out = random_geometry(pick)
    bits = pick.choice([(8, 8), (8, 8), (8, 8), (4, 4), (7, 5), (12, 12), (16, 16), (16, 8)])
    check_convolution(geometry, x, weight, out, bits)


def test_convolution_threads(threads):
    torch.manual_seed(threads)
    for seed in range(8):
        check_convolution(*random_geometry(rng.Random(100 + seed)), (8, 8))


CASES = [  # x, weight, geometry
    ((2, 64, 20, 20), (64, 64, 3, 3), Geometry(padding=(1, 1))),
    ((1, 256, 13, 11), (130, 256, 3, 3), Geometry(padding=(1, 1))),
    ((2, 600, 7, 9), (33, 600, 1, 1), Geometry()),
    ((1, 3, 61, 47), (64, 3, 7, 7), Geometry((2, 2), (3, 3))),
    ((2, 3, 40, 40), (32, 3, 3, 3), Geometry(padding=(1, 1))),
    ((1, 48, 19, 19), (20, 48, 3, 3), Geometry(padding=(6, 6), dilation=(6, 6))),
    ((2, 40, 15, 15), (80, 40, 1, 1), Geometry((2, 2))),
    ((2, 32, 17, 16), (48, 32, 3, 3), Geometry((2, 2), (1, 1))),
    ((1, 64, 12, 12), (64, 2, 3, 3), Geometry(padding=(1, 1), groups=32)),
    ((2, 35, 14, 14), (35, 1, 3, 3), Geometry((2, 2), (1, 1), groups=35)),
    ((2, 16, 14, 14), (32, 1, 3, 3), Geometry(padding=(1, 1), groups=16)),
    # depthwise: strides of one axis and of more than the kernel, tall bands, few and many taps
    ((2, 5, 13, 21), (5, 1, 3, 3), Geometry((2, 1), (1, 1), groups=5)),
    ((1, 4, 11, 19), (4, 1, 2, 2), Geometry((3, 4), (0, 1), groups=4)),
    ((1, 3, 120, 75), (3, 1, 3, 3), Geometry(padding=(1, 1), groups=3)),
    ((1, 3, 90, 133), (3, 1, 5, 5), Geometry((2, 2), (2, 2), groups=3)),
    ((2, 9, 7, 7), (9, 1, 1, 1), Geometry((2, 2), groups=9)),
    ((1, 4, 9, 40), (4, 1, 7, 7), Geometry(padding=(3, 3), groups=4)),
    ((1, 2, 6, 5), (2, 1, 3, 3), Geometry(padding=(4, 6), groups=2)),
    ((2, 3, 8, 1), (3, 1, 2, 2), Geometry((2, 2), (0, 1), (3, 2), groups=3)),
    ((5, 30, 3, 3), (40, 30, 3, 3), Geometry(padding=(1, 1))),
    ((4, 30, 3, 3), (40, 30, 3, 3), Geometry()),
    # 3 x 3 of stride 1, for the tiled form: edges, odd channels, paddings, dilations
    ((2, 33, 26, 21), (50, 33, 3, 3), Geometry(padding=(1, 1))),
    ((1, 24, 30, 29), (17, 24, 3, 3), Geometry()),
    ((1, 16, 25, 31), (40, 16, 3, 3), Geometry(padding=(2, 0))),
    ((1, 20, 18, 18), (24, 20, 3, 3), Geometry(padding=(4, 3))),
    ((2, 32, 33, 30), (32, 32, 3, 3), Geometry(padding=(2, 3), dilation=(2, 3))),
    ((1, 150, 24, 24), (12, 150, 3, 3), Geometry(padding=(1, 1))),
]


@pytest.mark.parametrize('x, weight, geometry', CASES)
def test_convolution_of_layers(level, x, weight, geometry):
    out = tuple(
        (x[2 + i] + 2 * geometry.padding[i] - geometry.dilation[i] * (weight[2 + i] - 1) - 1)
        // geometry.stride[i] + 1
        for i in (0, 1)
    )  # fmt: skip
    shape = (x[0], weight[0], *out)
    check_convolution(geometry, x, weight, shape, (8, 8))


@pytest.mark.parametrize('exponent', [-200, -80, -75, -70, -63, -62, 47, 48, 49, 55, 100])
@pytest.mark.parametrize('bias_scale', [0.0, 1e-38, 1e-30, 1.0, 1e30])
def test_convolution_exponents(level, exponent, bias_scale):
    """Subnormal results, overflow to infinity, a bias far above or below the sums."""
    for x, weight in (((2, 5, 6, 7), (7, 5, 3, 3)), ((1, 20, 8, 8), (16, 20, 1, 1))):
        out = (x[0], weight[0], x[2] - weight[2] + 1, x[3] - weight[3] + 1)
        check_convolution(Geometry(), x, weight, out, (8, 8), exponent, bias_scale)


@pytest.mark.parametrize('x, weight, geometry', GROUPED)
def test_groups_with_exponents_of_their_own(level, x, weight, geometry):
    for bits, scale in ((8, 1.0), (8, 1e-4), (8, 1e30), (5, 1e-42), (16, 1.0)):
        check.grouped_convolution(x, weight, geometry, bits, scale)


@pytest.mark.parametrize('x, weight, geometry', DENSE)
def test_dense_weights_with_an_exponent_a_channel(level, x, weight, geometry):
    for bits, scale in ((8, 1.0), (8, 1e30), (5, 1e-42), (16, 1.0)):
        check.dense_weights(x, weight, geometry, bits, scale)


def test_convolution_of_zeros(level):
    """Where all sums are zero the result is the bias, to the bit, whatever the bias is."""
    zeros = FixedPoint(torch.zeros(2, 4, 5, 5, dtype=torch.int8), torch.tensor(0), 8)
    weight = mantissas((3, 4, 3, 3), 8)
    geometry = Geometry(padding=(1, 1))
    bias = torch.tensor([1.0, -0.0, 1e-42])
    check.assert_same_with_top(
        cpu.conv2d(zeros, weight, geometry, bias, BITS),
        reference.conv2d(zeros, weight, geometry, bias, BITS),
    )
    bias = torch.tensor([1.0, math.inf, 1.0, 1.0])
    for grad in (mantissas((2, 3, 5, 5), 8), zeros._replace(mantissa=zeros.mantissa[:, :3])):
        with pytest.raises(NonFiniteError):
            cpu.conv2d_input_grad(grad, weight, (2, 4, 5, 5), geometry, bias, BITS)
    a, b = mantissas((4, 0), 8), mantissas((0, 3), 8)
    for bias in (None, torch.randn(3)):
        check.assert_same_with_top(cpu.matmul(a, b, bias, BITS), reference.matmul(a, b, bias, BITS))


def test_empty_convolution(level):
    geometry = Geometry(padding=(1, 1))
    weight = mantissas((3, 4, 3, 3), 8)
    x, grad = mantissas((0, 4, 5, 5), 8), mantissas((0, 3, 5, 5), 8)
    assert cpu.conv2d(x, weight, geometry, torch.randn(3)).shape == (0, 3, 5, 5)
    assert cpu.conv2d_input_grad(grad, weight, (0, 4, 5, 5), geometry).shape == (0, 4, 5, 5)
    total = cpu.conv2d_weight_grad(grad, x, (3, 4, 3, 3), geometry)
    assert_same(total, torch.zeros(3, 4, 3, 3))


@pytest.mark.parametrize('sign', [1, -1])
def test_long_sums(level, sign):
    """Extreme mantissas over sums longer than an int32 holds at 8 bits: 133,144 products."""
    for depth in (133_144, 133_146, 300_001):
        a, b = mantissas((2, depth), 8, extreme=True), mantissas((depth, 3), 8, extreme=True)
        a = a._replace(mantissa=sign * a.mantissa)
        check.assert_same_with_top(cpu.matmul(a, b), reference.matmul(a, b))
    grad = mantissas((2, 3, 300, 300), 8, extreme=True)
    x = mantissas((2, 2, 302, 302), 8, extreme=True)
    x = x._replace(mantissa=sign * x.mantissa)
    actual = cpu.conv2d_weight_grad(grad, x, (3, 2, 3, 3), Geometry())
    assert_same(actual, reference.conv2d_weight_grad(grad, x, (3, 2, 3, 3), Geometry()))
    x = mantissas((1, 9, 400, 400), 8, extreme=True)
    grad = mantissas((1, 9, 400, 400), 8, extreme=True)
    assert_same(
        cpu.conv2d_weight_grad(grad, x, (9, 1, 1, 1), Geometry(groups=9)),
        reference.conv2d_weight_grad(grad, x, (9, 1, 1, 1), Geometry(groups=9)),
    )
    x, weight = (
        mantissas((1, 15000, 3, 3), 8, extreme=True),
        mantissas((2, 15000, 3, 3), 8, extreme=True),
    )
    check.assert_same_with_top(
        cpu.conv2d(x, weight, Geometry()), reference.conv2d(x, weight, Geometry())
    )


@pytest.mark.parametrize('bits', [(8, 8), (4, 8), (12, 12), (16, 16), (8, 16)])
def test_matmul(level, bits):
    torch.manual_seed(0)
    for m, k, n in [(1, 1, 1), (6, 2, 16), (7, 33, 17), (64, 64, 64), (5, 1030, 50), (130, 7, 3),
                    (1, 300, 70), (70, 300, 1), (0, 4, 4), (4, 4, 0)]:  # fmt: skip
        for a_view, b_view in itertools.product(range(3), range(3)):
            a = strided(mantissas((m, k), bits[0]), a_view)
            b = strided(mantissas((k, n), bits[1]), b_view)
            for bias, random in ((None, None), (torch.randn(n) if n else None, BITS)):
                check.assert_same_with_top(
                    cpu.matmul(a, b, bias, random), reference.matmul(a, b, bias, random)
                )


@pytest.mark.parametrize('bits', [(8, 8), (16, 8)])
@pytest.mark.parametrize('count', [1, 3, 7])
def test_batched_matmul(level, bits, count):
    """Attention's products: query-key, attention-value, and both gradients of each."""
    torch.manual_seed(0)
    for m, k, n in ((50, 16, 33), (33, 50, 16), (1, 5, 1), (7, 600, 18), (4, 0, 5), (0, 4, 5)):
        for turn_a, turn_b in itertools.product((False, True), repeat=2):
            a = mantissas((count, k, m) if turn_a else (count, m, k), bits[0])
            b = mantissas((count, n, k) if turn_b else (count, k, n), bits[1])
            if turn_a:
                a = a._replace(mantissa=a.mantissa.mT)
            if turn_b:
                b = b._replace(mantissa=b.mantissa.mT)
            for bias in (None, torch.randn(n)):
                check.assert_same_with_top(
                    cpu.matmul(a, b, bias, BITS), reference.matmul(a, b, bias, BITS)
                )


@pytest.mark.parametrize('bits', [8, 16])
def test_matrices_with_exponents_of_their_own(level, threads, bits):
    for count in (2, 9):
        check.matrices_with_exponents(bits, count)


def test_batched_matmul_of_any_layout(threads):
    """Heads split from one projection, a batch that is broadcast, several leading dimensions."""
    qkv = mantissas((2, 37, 3, 5, 8), 8)
    q, k, v = (
        qkv._replace(mantissa=t) for t in qkv.mantissa.permute(2, 0, 3, 1, 4).unbind()
    )  # (2, 5, 37, 8)
    scores = k._replace(mantissa=k.mantissa.mT)
    check.assert_same_with_top(cpu.matmul(q, scores), reference.matmul(q, scores))
    shared = mantissas((37, 4), 8)
    shared = shared._replace(mantissa=shared.mantissa.expand(2, 5, 37, 4))
    turned = v._replace(mantissa=v.mantissa.mT)
    check.assert_same_with_top(cpu.matmul(turned, shared), reference.matmul(turned, shared))


def test_matmul_of_unequal_batches(level):
    with pytest.raises(ValueError, match=r'\(3, 4, N\)'):
        cpu.matmul(mantissas((3, 5, 4), 8), mantissas((2, 4, 6), 8))


def test_long_batched_sums(level):
    a, b = mantissas((4, 2, 133_146), 8, extreme=True), mantissas((4, 133_146, 3), 8, extreme=True)
    check.assert_same_with_top(cpu.matmul(a, b), reference.matmul(a, b))


def strided(x, view):
    """The same numbers, row-major, transposed in memory, or with gaps."""
    mantissa = x.mantissa
    if view == 1:
        mantissa = mantissa.t().contiguous().t()
    elif view == 2:
        mantissa = torch.stack([mantissa, mantissa], dim=-1)[..., 0]
    return x._replace(mantissa=mantissa)


@pytest.mark.parametrize('sign', [1, -1])
@pytest.mark.parametrize('channels', [64, 226, 240, 300])
def test_tiled_convolution_at_its_limits(level, sign, channels):
    """All mantissas extreme: sums modulo 2**32 must come back right, or not be taken that way."""
    geometry = Geometry(padding=(1, 1))
    x, weight = (1, channels, 20, 20), (16, channels, 3, 3)
    a, b = mantissas(x, 8, extreme=True), mantissas(weight, 8, extreme=True)
    b = b._replace(mantissa=sign * b.mantissa)
    check.assert_same_with_top(cpu.conv2d(a, b, geometry), reference.conv2d(a, b, geometry))
    grad = mantissas((1, 16, 20, 20), 8, extreme=True)
    assert_same(
        cpu.conv2d_weight_grad(grad, a, weight, geometry),
        reference.conv2d_weight_grad(grad, a, weight, geometry),
    )
    grad = mantissas((1, channels, 20, 20), 8, extreme=True)
    turned = b._replace(mantissa=b.mantissa.transpose(0, 1))
    check.assert_same_with_top(
        cpu.conv2d_input_grad(grad, turned, (1, 16, 20, 20), geometry),
        reference.conv2d_input_grad(grad, turned, (1, 16, 20, 20), geometry),
    )


@pytest.mark.parametrize('sign', [1, -1])
def test_tiled_weight_gradient_of_many_pixels(sign):
    """More than an int32 holds, tile by tile, in 64 bits."""
    grad = mantissas((1, 8, 372, 360), 8, extreme=True)
    x = mantissas((1, 16, 372, 360), 8, extreme=True)
    x = x._replace(mantissa=sign * x.mantissa)
    geometry = Geometry(padding=(1, 1))
    assert_same(
        cpu.conv2d_weight_grad(grad, x, (8, 16, 3, 3), geometry),
        reference.conv2d_weight_grad(grad, x, (8, 16, 3, 3), geometry),
    )


def test_strided_mantissas(level):
    x, weight = mantissas((2, 6, 9, 8), 8), mantissas((4, 6, 3, 3), 8)
    x = x._replace(mantissa=x.mantissa.transpose(2, 3))
    weight = weight._replace(mantissa=weight.mantissa.flip(2).transpose(2, 3))
    check.assert_same_with_top(
        cpu.conv2d(x, weight, Geometry()), reference.conv2d(x, weight, Geometry())
    )


@pytest.mark.parametrize('bits', [8, 16])
def test_channel_sum(level, bits):
    for shape, dim in (((2, 5, 7, 9), 1), ((300, 40), 1), ((300, 40), -1), ((40,), 0), ((0, 3), 1),
                       ((2, 3, 0), 1), ((2, 3, 4), 0), ((40000, 3), 1)):  # fmt: skip
        x = mantissas(shape, bits, extreme=shape[0] == 40000)
        assert_same(cpu.channel_sum(x, dim), reference.channel_sum(x, dim))
