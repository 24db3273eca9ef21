"""The CUDA kernels of additions, average pooling and norms against the reference, bit for bit.

They run in the emulator, through the host code that a GPU sees, and on a GPU by `pytest -m gpu`.
"""

import itertools
import math

import pytest
import torch
from comparison import (
    BITS,
    CPU,
    DEVICES,
    EPS,
    Comparison,
    adaptive,
    any_float32,
    assert_same,
    assert_same_fixed_point,
    freed,
    grid,
    images_of,
    mantissas,
    moved,
    norm_calls_not_finite,
    norm_cases,
    parameters,
    pattern,
    row_cases,
    windows_of,
)

from mmint import backends
from mmint.backends import NonFiniteError, Windows, cuda, reference
from mmint.backends.cuda import finite, source
from mmint.backends.magnitudes import remember_magnitude
from mmint.numerics import Role
from mmint.ops.mapper import Mapper
from mmint.ops.planes import map_planes
from mmint.ops.run import Site


@pytest.fixture(params=DEVICES)
def check(request):
    """The comparison of the kernels where they run."""
    device = request.param
    if device == CPU:
        request.getfixturevalue('emulated')
    torch.manual_seed(0)
    yield Comparison(cuda, torch.Tensor, device)
    finite.forget(device)


# ---- addition ----


@pytest.mark.parametrize('bits', [4, 8, 12, 16])
@pytest.mark.parametrize('random', [None, BITS], ids=['nearest', 'stochastic'])
def test_addition(check, bits, random):
    for shape in ((), (0,), (1,), (63,), (64,), (65,), (2, 3, 7, 9), (2500,)):
        for size in (1.9, 0.07):
            check.addition(torch.randn(shape), torch.randn(shape) * size, bits, random)


@pytest.mark.parametrize('random', [None, BITS], ids=['nearest', 'stochastic'])
def test_addition_of_every_distance(check, random):
    """Exponents equal, far apart, and so far that the smaller counts no more."""
    for power in (*range(-46, -36), *range(-3, 4), *range(37, 47)):
        for bits in (8, 16):
            check.addition(torch.randn(70), torch.randn(70) * 2.0**power, bits, random)


@pytest.mark.parametrize('random', [None, BITS], ids=['nearest', 'stochastic'])
def test_addition_of_extreme_exponents(check, random):
    powers = (-149, -147, -141, -126, -115, -100, 90, 126)
    for a, b in itertools.product(powers, powers):
        x = (torch.rand(40, dtype=torch.float64) * 2.0**a).float()
        y = (-torch.rand(40, dtype=torch.float64) * 2.0**b).float()
        for bits in (4, 8, 16):
            check.addition(x, y, bits, random)
    for _ in range(4):
        check.addition(any_float32((300,)), any_float32((300,)), 8, random)


@pytest.mark.parametrize('random', [None, BITS], ids=['nearest', 'stochastic'])
def test_addition_of_zeros_and_borders(check, random):
    zeros, x = torch.tensor([0.0, -0.0, -0.0]), torch.tensor([1.0, -1e-3, 3e-41])
    for a, b in itertools.product((zeros, x, x * 1e-38), repeat=2):
        check.addition(a, b, 8, random)
    assert_same(check.run('add', zeros, zeros, 8, random), torch.zeros(3))
    largest = torch.tensor([3.4028235e38, -3.4028235e38])
    check.addition(largest, largest, 16, random)  # infinite: the next mapping reports it
    for top in (127 / 64, 127.5 / 64, 1.9999999, 2.0, 1.0):
        check.addition(torch.tensor([top, -top / 3]), torch.tensor([-top, top / 2]), 8, random)


def test_addition_of_many_blocks(check):
    """A tensor of subnormals, too, which all blocks search for a mantissa."""
    x = torch.randn(6000)
    subnormal = torch.full((6000,), 1e-45)
    subnormal[-1] = 1e-40
    for y in (torch.randn(6000), subnormal, subnormal[:1].expand(6000)):
        check.addition(x * 1e-38, y, 8, None)


def test_addition_strided(check):
    x, y = torch.randn(6, 5, 4, 3), torch.randn(3, 4, 5, 6).permute(3, 2, 1, 0)
    for a, b in ((x, y), (y, x), (x[:, ::2], y[:, 1::2][:, [0, 1, 0]]), (y, y), (x, x)):
        check.addition(a, b, 8, BITS)
    z = moved(y.clone(), check.device)
    assert cuda.add(z, moved(x, check.device), 8, BITS, inplace=True) is z
    assert z.stride() == y.stride()
    assert_same(z.contiguous(), reference.add(y, x, 8, BITS))


def test_addition_asks_for_maxima_that_are_known(check):
    x, y = torch.randn(100), torch.randn(100)
    expected = reference.add(x, y, 8, BITS)
    x, y = (moved(z, check.device) for z in (x, y))
    remember_magnitude(x, int(pattern(x.abs()).max()))
    remember_magnitude(y, pattern(y.abs()).max().to(check.device))
    assert_same(cuda.add(x, y, 8, BITS), expected)


@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan])
def test_addition_not_finite(check, value):
    """The sum is zeros, and `check` reports it."""
    good, bad = torch.randn(1000), torch.randn(1000)
    bad[777] = value
    for x, y in ((good, bad), (bad, good), (bad, bad)):
        check.assert_same_with_top(check.run('add', x, y, 8, BITS), torch.zeros(1000))
        with pytest.raises(NonFiniteError):
            cuda.check(check.device)
        cuda.check(check.device)


def test_addition_of_other_shapes_is_refused(check):
    for y in (torch.randn(3, 1), torch.randn(2, 3).double()):
        with pytest.raises(ValueError, match='two of one shape and torch.float32 are accepted'):
            check.run('add', torch.randn(2, 3), y, 8, BITS)


# ---- average pooling ----


def poolings():
    for height, width in ((1, 1), (7, 9), (16, 5)):
        yield height, width, grid(adaptive(height, 1), adaptive(width, 1))
        yield height, width, grid(adaptive(height, 3), adaptive(width, 2))
        for kernel, stride, padding, ceil_mode, counted in (
            (2, 2, 0, True, True), (3, 1, 1, False, False), (3, 2, 1, True, True),
            (1, 3, 0, False, True),
        ):  # fmt: skip
            sizes = [
                windows_of(size, kernel, stride, padding, ceil_mode, counted)
                for size in (height, width)
            ]
            if all(size[0] for size in sizes):
                yield height, width, grid(*sizes)


@pytest.mark.parametrize('bits', [4, 8, 12, 16])
def test_average_pooling(check, bits):
    for number, (height, width, windows) in enumerate(poolings()):
        channels = (1, 3, 33)[number % 3]
        layout = (torch.contiguous_format, torch.channels_last)[number % 2]
        x = mantissas((2, channels, height, width), bits)
        grad = mantissas((2, channels, *map(len, windows[:2])), bits)
        x, grad = (
            t._replace(mantissa=t.mantissa.contiguous(memory_format=layout)) for t in (x, grad)
        )
        check.pooling(x, grad, windows)


def test_average_pooling_of_any_windows(check):
    """In any order, empty, over the border, with larger divisors; of no image."""
    windows = Windows(
        ((4, 7), (0, 2), (3, 3), (5, 6)), ((2, 9), (-3, 2)), ((21, 1000), (14, 77), (1, 2), (9, 2))
    )
    check.pooling(mantissas((2, 5, 6, 8), 8), mantissas((2, 5, 4, 2), 8), windows)
    check.pooling(mantissas((0, 5, 6, 8), 8), mantissas((0, 5, 4, 2), 8), windows)


def test_average_pooling_at_its_limits(check):
    """All mantissas extreme, and exponents beyond what a factor can do."""
    windows = grid(adaptive(20, 1), adaptive(30, 2))
    for bits, exponent in itertools.product((8, 16), (-150, -120, -60, 0, 100, 106, 120)):
        x = mantissas((1, 2, 20, 30), bits, exponent, extreme=True)
        check.pooling(x, mantissas((1, 2, 1, 2), bits, exponent, extreme=True), windows)


# ---- norms ----

IMAGES = [(2, 6, 5, 7), (1, 12, 1, 1), (3, 6, 130), (5, 18), (1, 35, 9, 4), (4, 6, 0), (0, 6, 2)]
WIDTHS = [(8, 8), (4, 4), (8, 5), (16, 16), (6, 16)]


def test_batch_norm(check):
    for x, grad in norm_cases(WIDTHS, IMAGES):
        check.batch_norm(x, grad)


def test_sums_at_their_limits(check):
    """All mantissas extreme, over planes of several blocks."""
    for bits, sign in itertools.product((8, 16), (1, -1)):
        x = mantissas((1, 1, 9001), bits, extreme=True)
        check.batch_norm(x, x._replace(mantissa=sign * x.mantissa))


def test_groups_of_many_elements(check):
    """n * S2 and S1**2 are far beyond 64 bits, and all but equal."""
    count = 1 << 30
    for bits in (8, 16):
        most = (1 << bits - 1) - 1
        x, grad = mantissas((2, 4, 3), bits), mantissas((2, 4, 3), bits)
        s1 = torch.tensor([most * count, most * count - 1, 1, -most * count])
        s2 = torch.tensor([most**2 * count, most**2 * count, count, most**2 * count])
        products = torch.stack([s1.flip(0), -s2])
        sums = torch.stack([s1, s2])
        for weight, bias in parameters(4):
            check.same('batch_norm', x, sums, count, weight, bias, EPS)
            check.same('batch_norm_grad', grad, x, sums, products, count, weight, EPS)
        check.update_running(x, sums, count)


def test_planes_of_many_blocks(check):
    x, grad = mantissas((3, 34, 31, 30), 8), mantissas((3, 34, 31, 30), 8)
    check.batch_norm_without_parameters(x, grad)


def test_frozen_norm(check):
    for x, grad in norm_cases(WIDTHS, IMAGES):
        check.frozen_norm(x, grad)


def test_group_norm(check):
    for x, grad in norm_cases(WIDTHS, [(2, 6, 5, 7), (3, 6, 130), (5, 18)]):
        check.group_norm(x, grad)


def test_layer_norm(check):
    shapes = [(6, 40), (7, 1), (6, 2), (12, 33), (0, 5), (6, 300)]
    for x, grad in row_cases(WIDTHS, shapes):
        for weight, bias in parameters(x.mantissa.shape[1]):
            check.layer_norm(x, grad, weight, bias)
        weight, bias = torch.randn(2, x.mantissa.shape[1])
        for factor in (1e30, 1e-30, 1e-45, 0):
            check.same('layer_norm', x, weight, bias * factor, EPS)
            check.same('layer_norm', x, weight * factor, bias, EPS)
        check.same('layer_norm', x, weight * 0, bias * 0, EPS)


@pytest.mark.parametrize('bits, grad_bits', [(8, 8), (5, 16)])
def test_norms_with_free_exponents(check, bits, grad_bits):
    check.norms_with_free_exponents(bits, grad_bits)


@pytest.mark.parametrize(
    'shape, bits, exponent',
    [
        ((2, 6, 5, 7), 8, -9),
        ((1, 4, 1, 1), 8, -140),
        ((1, 34, 9, 16), 8, 60),
        ((2, 2, 50, 65), 5, -9),
        ((2, 4, 9, 11), 16, -9),
    ],
)
def test_elements_that_are_made_where_they_are_read(check, shape, bits, exponent):
    x, channels = images_of(shape, bits, exponent), shape[1]
    if shape[0] == 2:
        x = freed(x, (1, channels, 1, 1))
    *affine, mean = torch.randn(3, channels)
    sums = reference.plane_sums(x)
    check.sources(x, sums, *affine, mean, torch.rand(channels))


def test_layer_norm_of_many_rows(check):
    x, grad = mantissas((600, 5), 8), mantissas((600, 5), 8)
    check.layer_norm(x, grad, None, None)


def test_layer_norm_of_one_element_that_differs(check):
    """The largest normalised element there is; beyond 2**14 elements it is cut."""
    for size in (2, 3, 1000, 1 << 14, 20_000):
        x, grad = mantissas((2, size), 8), mantissas((2, size), 8)
        x.mantissa.fill_(-127)
        x.mantissa[0, size // 2] = 127
        x.mantissa[1, -1] = -126
        check.layer_norm(x, grad, None, None, 1e-30)


@pytest.mark.parametrize('value', [math.inf, math.nan])
def test_norm_parameters_not_finite(check, value):
    """The calls return, and `check` raises."""
    for arguments in norm_calls_not_finite(value):
        check.run(*arguments)
        with pytest.raises(NonFiniteError):
            cuda.check(check.device)
    x, good = mantissas((2, 3, 4, 4), 8), torch.ones(3)
    check.run('batch_norm', x, reference.plane_sums(x).sum(1), 32, good, good, EPS)
    cuda.check(check.device)


def test_norms_of_nothing_are_refused(check):
    x = mantissas((2, 3, 0), 8)
    sums = reference.plane_sums(x)
    for arguments in (
        ('batch_norm', x, sums.sum(1), 0, None, None, EPS),
        ('group_norm', x, sums, None, None, EPS),
        ('layer_norm', mantissas((3, 0), 8), None, None, EPS),
        ('update_running', torch.ones(3), torch.ones(3), x, sums.sum(1), 1, 0.1),
    ):
        with pytest.raises(ValueError, match='at least'):
            check.run(*arguments)


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('shape', [(2, 6), (2, 6, 5), (2, 6, 5, 7), (2, 6, 3, 5, 7), (2, 1, 5, 7)])
def test_planes_are_mapped_as_kernels_read_them(check, shape, bits, monkeypatch):
    """Mantissas need no copy on the way to a kernel, and are those of any other backend."""
    monkeypatch.setattr(backends, 'wish', 'cuda')
    x = torch.randn(shape)
    mapper = Mapper(Site('layer', 3), bits, True, 0)
    for exponents in ((1, 1), (1, shape[1])):
        mapped = map_planes(moved(x, check.device), Role.INPUT, mapper, exponents)
        shape_of_them = (*exponents, *[1] * (len(shape) - 2)) if max(exponents) > 1 else ()
        expected = reference.quantize(x, bits, mapper.random(Role.INPUT), exponents=shape_of_them)
        assert_same_fixed_point(mapped, expected)
        read = source.channels_last(mapped.mantissa)
        assert read.data_ptr() == mapped.mantissa.data_ptr()
