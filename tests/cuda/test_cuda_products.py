"""Convolutions and matrix products in CUDA against the reference, bit for bit, in the emulator."""

import itertools
import math
import random as rng

import pytest
import torch
from comparison import BITS, DENSE, GROUPED, Comparison, assert_same, mantissas
from simt import Emulator

from mmint.backends import Geometry, NonFiniteError, cuda, reference
from mmint.backends.cuda import depthwise, finite, products, schedule
from mmint.backends.cuda.launcher import SOURCES, launcher, use_launcher
from mmint.backends.magnitudes import known_magnitude
from mmint.numerics import FixedPoint

CPU = torch.device('cpu')
check = Comparison(cuda, torch.Tensor)
pytestmark = pytest.mark.usefixtures('emulated')
TILES = [schedule.LARGE, schedule.SMALL, schedule.NARROW]


@pytest.fixture
def planned(monkeypatch):
    """Lets a test choose the tile, and into how many parts sums are split."""

    def use(tile, splits=1):
        def plan(product, vector, largest, device):
            return (tile if vector >= tile.vector else schedule.NARROW), splits

        monkeypatch.setattr(schedule, 'plan', plan)

    return use


def channels_last(x):
    return x._replace(mantissa=x.mantissa.contiguous(memory_format=torch.channels_last))


def turned(x):
    return x._replace(mantissa=x.mantissa.mT)


def output_shape(x, weight, geometry):
    stride, padding, dilation, _ = geometry
    return (
        x[0],
        weight[0],
        *(
            (x[2 + i] + 2 * padding[i] - dilation[i] * (weight[2 + i] - 1) - 1) // stride[i] + 1
            for i in (0, 1)
        ),
    )


def check_convolution(x_shape, weight_shape, geometry, bits=(8, 8), exponent=-9, bias_scale=1.0):
    x, weight = mantissas(x_shape, bits[0], exponent), mantissas(weight_shape, bits[1], exponent)
    grad = mantissas(output_shape(x_shape, weight_shape, geometry), bits[0], exponent)
    for bias, random in ((None, None), (bias_scale, None), (bias_scale, BITS)):
        b = None if bias is None else torch.randn(weight_shape[0]) * bias
        check.assert_same_with_top(
            products.conv2d(x, weight, geometry, b, random),
            reference.conv2d(x, weight, geometry, b, random),
        )
        b = None if bias is None else torch.randn(x_shape[1]) * bias
        check.assert_same_with_top(
            products.conv2d_input_grad(grad, weight, x_shape, geometry, b, random),
            reference.conv2d_input_grad(grad, weight, x_shape, geometry, b, random),
        )
        x, weight, grad = map(channels_last, (x, weight, grad))
    check.assert_same_with_top(
        products.conv2d_weight_grad(grad, x, weight_shape, geometry),
        reference.conv2d_weight_grad(grad, x, weight_shape, geometry),
    )


# ---- matrices ----


@pytest.mark.parametrize('bits', [(8, 8), (4, 8), (12, 12), (16, 16), (8, 16)])
def test_matmul(bits):
    for m, k, n in [(1, 1, 1), (6, 2, 16), (7, 33, 17), (64, 64, 64), (5, 1030, 50), (130, 7, 3),
                    (1, 300, 70), (70, 300, 1)]:  # fmt: skip
        for turn_a, turn_b in itertools.product((False, True), repeat=2):
            a = mantissas((k, m) if turn_a else (m, k), bits[0])
            b = mantissas((n, k) if turn_b else (k, n), bits[1])
            a, b = turned(a) if turn_a else a, turned(b) if turn_b else b
            for bias, random in ((None, None), (torch.randn(n), BITS)):
                check.assert_same_with_top(
                    products.matmul(a, b, bias, random), reference.matmul(a, b, bias, random)
                )


@pytest.mark.parametrize('tile', TILES, ids=lambda tile: tile.name)
def test_matmul_in_every_tile(tile, planned):
    """Edges of tiles on every side, stages that wrap around, parts along K, bands of tiles."""
    for m, k, n, splits in ((129, 592, 272, 1), (48, 592, 272, 3), (16, 64, 16, 1),
                            (16, 64, 16, 5), (144, 16, 16, 1), (2160, 16, 260, 1)):  # fmt: skip
        planned(tile, splits)
        for turn_a, turn_b in ((False, True), (False, False), (True, False)):
            a, b = mantissas((k, m) if turn_a else (m, k)), mantissas((n, k) if turn_b else (k, n))
            a, b = turned(a) if turn_a else a, turned(b) if turn_b else b
            bias = torch.randn(n)
            check.assert_same_with_top(
                products.matmul(a, b, bias, BITS), reference.matmul(a, b, bias, BITS)
            )


@pytest.mark.parametrize('bits', [(8, 8), (16, 8)])
@pytest.mark.parametrize('count', [1, 3])
def test_batched_matmul(bits, count):
    """Attention's products: query-key, attention-value, and both gradients of each."""
    for m, k, n in ((50, 16, 33), (33, 50, 16), (1, 5, 1), (7, 600, 18), (4, 0, 5), (0, 4, 5)):
        for turn_a, turn_b in itertools.product((False, True), repeat=2):
            a = mantissas((count, k, m) if turn_a else (count, m, k), bits[0])
            b = mantissas((count, n, k) if turn_b else (count, k, n), bits[1])
            a, b = turned(a) if turn_a else a, turned(b) if turn_b else b
            for bias in (None, torch.randn(n)):
                check.assert_same_with_top(
                    products.matmul(a, b, bias, BITS), reference.matmul(a, b, bias, BITS)
                )


@pytest.mark.parametrize('bits', [8, 16])
def test_matrices_with_exponents_of_their_own(bits):
    for count in (2, 9):
        check.matrices_with_exponents(bits, count)


def test_batched_matmul_of_any_layout():
    """Heads split from one projection, a batch that is broadcast, gaps, odd places in memory."""
    qkv = mantissas((2, 37, 3, 5, 8))
    q, k, v = (qkv._replace(mantissa=t) for t in qkv.mantissa.permute(2, 0, 3, 1, 4).unbind())
    check.assert_same_with_top(products.matmul(q, turned(k)), reference.matmul(q, turned(k)))
    shared = mantissas((37, 4))
    shared = shared._replace(mantissa=shared.mantissa.expand(2, 5, 37, 4))
    check.assert_same_with_top(
        products.matmul(turned(v), shared), reference.matmul(turned(v), shared)
    )
    a, b = mantissas((32, 65)), mantissas((64, 32))
    views = [
        a.mantissa[:, 1:], a.mantissa.flatten()[3 : 3 + 32 * 64].view(32, 64),
        mantissas((32, 128)).mantissa[:, ::2], mantissas((33, 80)).mantissa[1:, 16:],
    ]  # fmt: skip
    for view in views:
        left = a._replace(mantissa=view)
        check.assert_same_with_top(products.matmul(left, b), reference.matmul(left, b))
        check.assert_same_with_top(products.matmul(turned(b), turned(left)),
                              reference.matmul(turned(b), turned(left)))  # fmt: skip


def test_matmul_of_unequal_batches():
    with pytest.raises(ValueError, match=r'\(3, 4, N\)'):
        products.matmul(mantissas((3, 5, 4)), mantissas((2, 4, 6)))


# ---- convolutions ----


def random_geometry(pick):
    """One convolution: input, weight, geometry."""
    groups = pick.choice([1, 1, 1, 2, 3])
    kernel = pick.choice([(1, 1), (1, 1), (3, 3), (3, 3), (1, 3), (2, 2), (5, 4), (7, 7)])
    stride = pick.choice([(1, 1), (1, 1), (2, 2), (1, 2), (3, 2)])
    dilation = pick.choice([(1, 1), (1, 1), (2, 2), (3, 1), (6, 6)])
    padding = (pick.randint(0, 3), pick.randint(0, 6))
    c = pick.choice([1, 2, 3, 4, 7, 8, 9, 16, 17, 33, 70])
    o = pick.choice([1, 2, 5, 6, 7, 12, 16, 31, 64, 67])
    per_group, filters = c, o * groups
    if pick.random() < 0.2:  # depthwise
        groups, per_group, filters = c, 1, c
    span = [dilation[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    size = [max(pick.randint(1, 12), span[i] - 2 * padding[i]) for i in (0, 1)]
    x = (pick.randint(1, 3), per_group * groups, *size)
    return x, (filters, per_group, *kernel), Geometry(stride, padding, dilation, groups)


@pytest.mark.parametrize('seed', range(40))
def test_convolution(seed):
    torch.manual_seed(seed)
    pick = rng.Random(seed)
    shapes = random_geometry(pick)
    bits = pick.choice([(8, 8), (8, 8), (8, 8), (4, 4), (7, 5), (12, 12), (16, 16), (16, 8)])
    check_convolution(*shapes, bits)


CASES = [  # x, weight, geometry
    ((1, 64, 10, 13), (144, 64, 3, 3), Geometry(padding=(1, 1))),
    ((3, 32, 5, 7), (33, 32, 1, 1), Geometry()),
    ((1, 3, 31, 27), (16, 3, 7, 7), Geometry((2, 2), (3, 3))),
    ((1, 48, 13, 13), (16, 48, 3, 3), Geometry(padding=(6, 6), dilation=(6, 6))),
    ((2, 32, 15, 16), (80, 32, 1, 1), Geometry((2, 2))),
    ((2, 32, 15, 12), (48, 32, 3, 3), Geometry((2, 2), (1, 1))),
    ((1, 16, 11, 12), (16, 16, 3, 2), Geometry((3, 2), (2, 1), (2, 4))),
    ((1, 16, 16, 12), (16, 16, 4, 4), Geometry((4, 4))),
    ((1, 64, 8, 8), (64, 2, 3, 3), Geometry(padding=(1, 1), groups=32)),
    ((1, 64, 8, 8), (96, 32, 3, 3), Geometry(padding=(1, 1), groups=2)),
    ((2, 35, 9, 9), (35, 1, 3, 3), Geometry((2, 2), (1, 1), groups=35)),
    ((2, 40, 9, 9), (40, 1, 5, 3), Geometry((1, 3), (2, 1), (2, 1), groups=40)),
    ((2, 16, 7, 7), (32, 1, 3, 3), Geometry(padding=(1, 1), groups=16)),
    ((4, 30, 3, 3), (40, 30, 3, 3), Geometry()),
]


@pytest.mark.parametrize('splits', [1, 3])
@pytest.mark.parametrize('tile', TILES, ids=lambda tile: tile.name)
def test_convolution_of_layers_in_every_tile(tile, splits, planned):
    planned(tile, splits)
    for case in CASES:
        check_convolution(*case)


@pytest.mark.parametrize('case', CASES)
def test_convolution_as_planned(case, monkeypatch):
    """For a GPU of many multiprocessors, which small products are split for."""
    for module in (schedule, depthwise):
        monkeypatch.setattr(module, 'processors', lambda device: 100)
    check_convolution(*case)


@pytest.mark.parametrize('exponent', [-200, -80, -75, -70, -63, -62, 47, 48, 49, 55, 100])
@pytest.mark.parametrize('bias_scale', [0.0, 1e-38, 1e-30, 1.0, 1e30])
def test_convolution_exponents(exponent, bias_scale):
    """Subnormal results, overflow to infinity, a bias far above or below the sums."""
    for x, weight, groups in (((2, 5, 6, 7), (7, 5, 3, 3), 1), ((1, 4, 3, 3), (4, 1, 2, 2), 4)):
        check_convolution(x, weight, Geometry(groups=groups), (8, 8), exponent, bias_scale)


@pytest.mark.parametrize('x, weight, geometry', GROUPED)
def test_groups_with_exponents_of_their_own(x, weight, geometry):
    for bits, scale in ((8, 1.0), (8, 1e30), (5, 1e-42), (16, 1.0)):
        check.grouped_convolution(x, weight, geometry, bits, scale)


@pytest.mark.parametrize('splits', [1, 3])
@pytest.mark.parametrize('tile', TILES, ids=lambda tile: tile.name)
def test_groups_with_exponents_of_their_own_in_every_tile(tile, splits, planned):
    planned(tile, splits)
    check.grouped_convolution((1, 64, 6, 6), (64, 32, 1, 1), Geometry(groups=2))


@pytest.mark.parametrize('x, weight, geometry', DENSE)
def test_dense_weights_with_an_exponent_a_channel(x, weight, geometry):
    for bits, scale in ((8, 1.0), (8, 1e30), (5, 1e-42), (16, 1.0)):
        check.dense_weights(x, weight, geometry, bits, scale)


def test_convolution_of_zeros():
    """Where all sums are zero the result is the bias, to the bit, whatever the bias is."""
    zeros = FixedPoint(
        torch.zeros(2, 4, 5, 5, dtype=torch.int8), torch.tensor(0, dtype=torch.int32), 8
    )
    geometry = Geometry(padding=(1, 1))
    bias = torch.tensor([1.0, -0.0, 1e-42, -3.0])
    for weight in (mantissas((4, 4, 3, 3)), mantissas((4, 4, 3, 3), 16)):
        check.assert_same_with_top(
            products.conv2d(zeros, weight, geometry, bias, BITS),
            reference.conv2d(zeros, weight, geometry, bias, BITS),
        )
        check.assert_same_with_top(
            products.conv2d_input_grad(zeros, weight, (2, 4, 5, 5), geometry, bias, BITS),
            reference.conv2d_input_grad(zeros, weight, (2, 4, 5, 5), geometry, bias, BITS),
        )
    depthwise, geometry = mantissas((4, 1, 3, 3)), geometry._replace(groups=4)
    check.assert_same_with_top(
        products.conv2d(zeros, depthwise, geometry, bias, BITS),
        reference.conv2d(zeros, depthwise, geometry, bias, BITS),
    )
    a, b = mantissas((4, 0)), mantissas((0, 3))
    for bias in (None, torch.randn(3)):
        check.assert_same_with_top(
            products.matmul(a, b, bias, BITS), reference.matmul(a, b, bias, BITS)
        )


@pytest.mark.parametrize('value', [math.inf, math.nan])
def test_a_bias_that_is_not_finite_is_reported_later(value):
    bias = torch.tensor([1.0, value, 1.0])
    products.matmul(mantissas((4, 5)), mantissas((5, 3)), bias, BITS)
    with pytest.raises(NonFiniteError):
        finite.check(CPU)


def test_empty_products():
    geometry = Geometry(padding=(1, 1))
    weight, depthwise = mantissas((3, 4, 3, 3)), mantissas((4, 1, 3, 3))
    x, grad = mantissas((0, 4, 5, 5)), mantissas((0, 3, 5, 5))
    for bias in (None, torch.randn(3)):
        assert products.conv2d(x, weight, geometry, bias).shape == (0, 3, 5, 5)
    out = products.conv2d_input_grad(grad, weight, (0, 4, 5, 5), geometry)
    assert out.shape == (0, 4, 5, 5) and not known_magnitude(out).any()
    total = products.conv2d_weight_grad(grad, x, (3, 4, 3, 3), geometry)
    assert_same(total, torch.zeros(3, 4, 3, 3))
    by_channel = geometry._replace(groups=4)
    assert products.conv2d(x, depthwise, by_channel).shape == (0, 4, 5, 5)
    total = products.conv2d_weight_grad(x, x, (4, 1, 3, 3), by_channel)
    assert_same(total, torch.zeros(4, 1, 3, 3))
    for m, k, n in ((0, 4, 4), (4, 4, 0), (4, 0, 4)):
        for bits in (8, 16):
            a, b = mantissas((m, k), bits), mantissas((k, n), bits)
            check.assert_same_with_top(products.matmul(a, b), reference.matmul(a, b))


def test_sums_as_long_as_an_int32_holds():
    """Extreme mantissas, 2080 stages of 64 products: one more passes 2**31."""
    a, b = mantissas((2, 133_120), extreme=True), mantissas((133_120, 3), extreme=True)
    check.assert_same_with_top(products.matmul(a, b), reference.matmul(a, b))


def test_longer_sums():
    grad, x = mantissas((1, 3, 366, 366), extreme=True), mantissas((1, 2, 366, 366), extreme=True)
    x = x._replace(mantissa=-x.mantissa)
    for weight, groups in (((3, 2, 1, 1), 1), ((2, 1, 1, 1), 2)):
        grad = grad._replace(mantissa=grad.mantissa[:, : weight[0]])
        geometry = Geometry(groups=groups)
        assert_same(
            products.conv2d_weight_grad(grad, x, weight, geometry),
            reference.conv2d_weight_grad(grad, x, weight, geometry),
        )


@pytest.mark.slow
@pytest.mark.parametrize('sign', [1, -1])
def test_longer_sums_of_every_product(sign):
    for depth in (133_121, 300_001):
        a, b = mantissas((2, depth), extreme=True), mantissas((depth, 3), extreme=True)
        a = a._replace(mantissa=sign * a.mantissa)
        check.assert_same_with_top(products.matmul(a, b), reference.matmul(a, b))
    x = mantissas((1, 15_000, 3, 3), extreme=True)
    weight = mantissas((2, 15_000, 3, 3), extreme=True)
    x = x._replace(mantissa=sign * x.mantissa)
    bias = torch.randn(2)
    check.assert_same_with_top(
        products.conv2d(x, weight, Geometry(), bias, BITS),
        reference.conv2d(x, weight, Geometry(), bias, BITS),
    )
    grad, weight = mantissas((1, 15_000, 3, 3), extreme=True), mantissas((15_000, 2, 3, 3))
    check.assert_same_with_top(
        products.conv2d_input_grad(grad, weight, (1, 2, 5, 5), Geometry()),
        reference.conv2d_input_grad(grad, weight, (1, 2, 5, 5), Geometry()),
    )


def test_products_that_are_too_large_are_refused(monkeypatch):
    monkeypatch.setattr(schedule, 'INT32_MOST', 100)
    with pytest.raises(ValueError, match='101 products .* up to 100 of each .* smaller batch'):
        products.matmul(mantissas((1, 101), 16), mantissas((101, 1), 16))


# ---- plans, and parts of kernels ----


def test_old_cards_have_no_room_for_large_tiles():
    for architecture, names in (('sm_75', {'small'}), ('sm_80', {'large'})):
        use_launcher(Emulator(architecture=architecture))
        a, b = mantissas((128, 256)), mantissas((256, 256))  # which a large tile suits
        tiles = []
        kernel = launcher().kernel
        launcher().kernel = lambda source, name, device, kernel=kernel, tiles=tiles: (
            tiles.append(name), kernel(source, name, device))[1]  # fmt: skip
        check.assert_same_with_top(products.matmul(a, b), reference.matmul(a, b))
        assert {n.split('_')[1] for n in tiles if n.startswith('kr')} == names


def test_a_matrix_product_in_quarters_is_the_whole(tmp_path):
    """What sm_75 runs in place of m16n8k32."""
    for header in ('mma.cuh', 'device.cuh'):
        (tmp_path / header).write_text((SOURCES / header).read_text())
    (tmp_path / 'quarters.cu').write_text("""
        #include "mma.cuh"
        extern "C" __global__ void quarters(const uint4 *a, const uint2 *b, int *whole,
                                            int *parts) {
            const int lane = threadIdx.x;
            const unsigned left[4] = {a[lane].x, a[lane].y, a[lane].z, a[lane].w};
            const unsigned right[2] = {b[lane].x, b[lane].y};
            int one[4] = {1, 2, 3, 4}, other[4] = {1, 2, 3, 4};
            mma_m16n8k32_s8(one, left, right);
            mma_in_quarters(other, left, right);
            for (int i = 0; i < 4; i++) {
                whole[4 * lane + i] = one[i];
                parts[4 * lane + i] = other[i];
            }
        }
    """)
    emulator = Emulator(tmp_path)
    a, b = (torch.randint(-(2**31), 2**31, (32, n)).to(torch.int32) for n in (4, 2))
    whole, parts = torch.empty(2, 32, 4, dtype=torch.int32)
    kernel = emulator.kernel('quarters.cu', 'quarters', CPU)
    emulator.launch(kernel, (1, 1, 1), (32, 1, 1), 0, [a, b, whole, parts], CPU)
    assert torch.equal(whole, parts) and whole.unique().numel() > 100
