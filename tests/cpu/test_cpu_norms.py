"""The C kernels of additions, average pooling and norms against the reference, bit for bit."""

import itertools
import math

import pytest
import torch
from comparison import (
    BITS,
    EPS,
    Comparison,
    adaptive,
    any_float32,
    assert_same,
    freed,
    grid,
    images_of,
    mantissas,
    norm_calls_not_finite,
    norm_cases,
    parameters,
    pattern,
    row_cases,
    windows_of,
)

from mmint.backends import NonFiniteError, Windows, cpu, reference

check = Comparison(cpu, int)
pytestmark = pytest.mark.skipif(not cpu.available(), reason='the C kernels are not built')


# ---- addition ----


@pytest.mark.parametrize('bits', [4, 5, 6, 7, 8, 12, 16])
@pytest.mark.parametrize('random', [None, BITS], ids=['nearest', 'stochastic'])
def test_addition(level, bits, random):
    torch.manual_seed(bits)
    for shape in ((), (0,), (1,), (63,), (64,), (65,), (2, 3, 7, 9), (1000,)):
        for scale in (1.0, 1.9, 0.07, 40.0):
            check.addition(torch.randn(shape), torch.randn(shape) * scale, bits, random)


@pytest.mark.parametrize('random', [None, BITS], ids=['nearest', 'stochastic'])
def test_addition_of_every_distance(level, random):
    """Exponents equal, so far apart that int32 does not do, and that the smaller counts no more."""
    torch.manual_seed(0)
    for power, bits in itertools.product(range(-50, 51), (8, 16)):
        check.addition(torch.randn(130), torch.randn(130) * 2.0**power, bits, random)


@pytest.mark.parametrize('random', [None, BITS], ids=['nearest', 'stochastic'])
def test_addition_of_extreme_exponents(level, random):
    torch.manual_seed(0)
    powers = (-149, -147, -141, -130, -126, -120, -110, -105, -100, 90, 100, 110, 126)
    for a, b in itertools.product(powers, powers):
        x = (torch.rand(70, dtype=torch.float64) * 2.0**a).float()
        y = (-torch.rand(70, dtype=torch.float64) * 2.0**b).float()
        for bits in (4, 8, 16):
            check.addition(x, y, bits, random)
    for _ in range(10):
        check.addition(any_float32((500,)), any_float32((500,)), 8, random)


@pytest.mark.parametrize('random', [None, BITS], ids=['nearest', 'stochastic'])
def test_addition_of_zeros_and_borders(level, random):
    zeros, x = torch.tensor([0.0, -0.0, -0.0]), torch.tensor([1.0, -1e-3, 3e-41])
    for a, b in itertools.product((zeros, x, x * 1e-38), repeat=2):
        check.addition(a, b, 8, random)
    assert_same(cpu.add(zeros, zeros, 8, random), torch.zeros(3))
    largest = torch.tensor([3.4028235e38, -3.4028235e38])
    check.addition(largest, largest, 16, random)  # infinite: the next mapping reports it
    for top in (127 / 64, 127.5 / 64, 1.9999999, 2.0, 1.0):
        check.addition(torch.tensor([top, -top / 3]), torch.tensor([-top, top / 2]), 8, random)


def test_addition_threads(threads):
    torch.manual_seed(0)
    check.addition(torch.randn(2, 70, 47, 50), torch.randn(2, 70, 47, 50) / 3, 8, BITS)
    check.addition(torch.randn(100_001), torch.randn(100_001) * 1e-8, 16, BITS)


def test_addition_strided(level):
    x, y = torch.randn(6, 5, 4, 3), torch.randn(3, 4, 5, 6).permute(3, 2, 1, 0)
    for a, b in ((x, y), (y, x), (x[:, ::2], y[:, 1::2][:, [0, 1, 0]]), (y, y), (x, x)):
        check.addition(a, b, 8, BITS)
    z = y.clone()
    assert cpu.add(z, x, 8, BITS, inplace=True) is z
    assert z.stride() == y.stride()
    assert_same(z.contiguous(), reference.add(y, x, 8, BITS))


@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan])
def test_addition_not_finite(level, value):
    good, bad = torch.randn(100_000), torch.randn(100_000)
    bad[77_777] = value
    for x, y in ((good, bad), (bad, good)):
        before = x.clone()
        with pytest.raises(NonFiniteError):
            cpu.add(x, y, 8, BITS, inplace=True)
        assert torch.equal(pattern(x), pattern(before))


def test_addition_of_other_shapes_is_refused():
    for y in (torch.randn(3, 1), torch.randn(2, 3).double()):
        with pytest.raises(ValueError, match='two of one shape and torch.float32 are accepted'):
            cpu.add(torch.randn(2, 3), y, 8, BITS)


# ---- average pooling ----


def poolings():
    for height, width in ((1, 1), (7, 9), (16, 33), (70, 6)):
        yield height, width, grid(adaptive(height, 1), adaptive(width, 1))
        yield height, width, grid(adaptive(height, 3), adaptive(width, 2))
        yield height, width, grid(adaptive(height, 1), adaptive(width, 4))
        yield height, width, grid(adaptive(height, 5), adaptive(width, 1))
        for kernel, stride, padding, ceil_mode, counted in (
            (2, 2, 0, True, True), (3, 1, 1, False, True), (3, 1, 1, False, False),
            (3, 2, 1, True, True), (5, 3, 2, True, False), (1, 3, 0, False, True),
        ):  # fmt: skip
            sizes = [
                windows_of(size, kernel, stride, padding, ceil_mode, counted)
                for size in (height, width)
            ]
            if all(size[0] for size in sizes):
                yield height, width, grid(*sizes)


@pytest.mark.parametrize('bits', [4, 8, 12, 16])
def test_average_pooling(level, bits):
    torch.manual_seed(bits)
    for height, width, windows in poolings():
        x = mantissas((2, 3, height, width), bits)
        grad = mantissas((2, 3, *map(len, windows[:2])), bits)
        for layout in (torch.contiguous_format, torch.channels_last):
            x, grad = (
                t._replace(mantissa=t.mantissa.contiguous(memory_format=layout)) for t in (x, grad)
            )
            check.pooling(x, grad, windows)


def test_average_pooling_of_any_windows(level):
    """In any order, empty, over the border, with larger divisors."""
    windows = Windows(
        ((4, 7), (0, 2), (3, 3), (5, 6)), ((2, 9), (-3, 2)), ((21, 1000), (14, 77), (1, 2), (9, 2))
    )
    x, grad = mantissas((2, 5, 6, 8), 8), mantissas((2, 5, 4, 2), 8)
    check.pooling(x, grad, windows)


def test_average_pooling_at_its_limits(level):
    """All mantissas extreme, over large planes, and exponents beyond what a factor can do."""
    for bits, exponent in itertools.product((8, 16), (-150, -120, -60, 0, 100, 106, 120)):
        whole = grid(adaptive(70, 1), adaptive(300, 1))
        strips = grid(adaptive(70, 1), adaptive(300, 2))
        for windows in (whole, strips):
            x = mantissas((1, 2, 70, 300), bits, exponent, extreme=True)
            grad = mantissas((1, 2, *map(len, windows[:2])), bits, exponent, extreme=True)
            check.pooling(x, grad, windows)


def test_average_pooling_threads(threads):
    windows = grid(*[windows_of(60, 3, 2, 1)] * 2)
    x, grad = mantissas((2, 17, 60, 60), 8), mantissas((2, 17, 30, 30), 8)
    check.pooling(x, grad, windows)


# ---- norms ----

IMAGES = [(2, 6, 5, 7), (1, 12, 1, 1), (3, 6, 130), (5, 18), (2, 6, 9, 32), (4, 6, 0), (0, 6, 2)]
WIDTHS = [(8, 8), (4, 4), (6, 8), (8, 5), (12, 12), (16, 16), (16, 8)]


def test_batch_norm(level):
    torch.manual_seed(0)
    for x, grad in norm_cases(WIDTHS, IMAGES):
        check.batch_norm(x, grad)


def test_frozen_norm(level):
    torch.manual_seed(0)
    for x, grad in norm_cases(WIDTHS, IMAGES):
        check.frozen_norm(x, grad)


def test_group_norm(level):
    torch.manual_seed(0)
    for x, grad in norm_cases(WIDTHS, IMAGES):
        if x.mantissa.numel():
            check.group_norm(x, grad)


def test_layer_norm(level):
    torch.manual_seed(0)
    for x, grad in row_cases(WIDTHS, [(6, 40), (7, 1), (6, 2), (12, 33), (0, 5)]):
        for weight, bias in parameters(x.mantissa.shape[1]):
            check.layer_norm(x, grad, weight, bias)
        weight, bias = torch.randn(2, x.mantissa.shape[1])
        check.same('layer_norm', x, weight, bias * 1e30, EPS)
        check.same('layer_norm', x, weight * 1e-30, bias, EPS)


@pytest.mark.parametrize('bits, grad_bits', [(8, 8), (8, 5), (12, 16)])
def test_norms_with_free_exponents(level, bits, grad_bits):
    torch.manual_seed(0)
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
def test_elements_that_are_made_where_they_are_read(level, shape, bits, exponent):
    torch.manual_seed(0)
    x, channels = images_of(shape, bits, exponent), shape[1]
    if shape[0] == 2:
        x = freed(x, (1, channels, 1, 1))
    *affine, mean = torch.randn(3, channels)
    sums = reference.plane_sums(x)
    check.sources(x, sums, *affine, mean, torch.rand(channels))


def test_layer_norm_of_one_element_that_differs(level):
    """The largest normalised element there is; beyond 2**14 elements it is cut."""
    for size in (2, 3, 1000, 1 << 14, 20_000, 70_000):
        x, grad = mantissas((2, size), 8), mantissas((2, size), 8)
        x.mantissa.fill_(-127)
        x.mantissa[0, size // 2] = 127
        x.mantissa[1, -1] = -126
        check.layer_norm(x, grad, None, None, 1e-30)


def test_sums_at_their_limits(level):
    """All mantissas extreme, over planes larger than int32 holds the squares of."""
    for bits, sign in itertools.product((8, 16), (1, -1)):
        x = mantissas((1, 2, 150_001), bits, extreme=True)
        grad = x._replace(mantissa=sign * x.mantissa)
        check.batch_norm(x, grad)


def test_norm_threads(threads):
    torch.manual_seed(0)
    x, grad = mantissas((3, 34, 31, 30), 8), mantissas((3, 34, 31, 30), 8)
    check.batch_norm_without_parameters(x, grad)
    x, grad = mantissas((400, 300), 8), mantissas((400, 300), 8)
    check.layer_norm(x, grad, None, None)


@pytest.mark.parametrize('value', [math.inf, math.nan])
def test_norm_parameters_not_finite(level, value):
    for arguments in norm_calls_not_finite(value):
        with pytest.raises(NonFiniteError):
            getattr(cpu, arguments[0])(*arguments[1:])


def test_norms_of_nothing_are_refused():
    x = mantissas((2, 3, 0), 8)
    sums = reference.plane_sums(x)
    for call in (
        lambda: cpu.batch_norm(x, sums.sum(1), 0, None, None, EPS),
        lambda: cpu.group_norm(x, sums, None, None, EPS),
        lambda: cpu.layer_norm(mantissas((3, 0), 8), None, None, EPS),
        lambda: cpu.update_running(torch.ones(3), torch.ones(3), x, sums.sum(1), 1, 0.1),
    ):
        with pytest.raises(ValueError, match='at least'):
            call()
