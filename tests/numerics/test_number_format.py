"""The number format, against float64 and fractions: what every other promise rests on."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from mmint import backends
from mmint.backends import NonFiniteError, reference
from mmint.numerics import RandomBits, Role, check_bits
from mmint.numerics.integers import shift_right_stochastic

ALL_BITS = range(4, 17)
SMALLEST = 2.0**-149  # the smallest subnormal
LARGEST = float(np.finfo(np.float32).max)


def available_backends():
    """The reference, and the compiled backend where it is built."""
    try:
        from mmint.backends import cpu
    except ImportError:
        return [reference]
    return [reference, cpu] if getattr(cpu, 'available', lambda: False)() else [reference]


@pytest.fixture(params=available_backends(), ids=lambda module: module.__name__.split('.')[-1])
def backend(request):
    return request.param


def unit_exponent(top, bits):
    """The exponent by its meaning: the smallest unit in whose grid the maximum rounds to p bits."""
    if top == 0:
        return 0
    p = bits - 1
    unit = max(math.frexp(top)[1], -125) - p
    return unit + (Fraction(top) > (2**p - 1) * Fraction(2) ** unit)


def expected(x, bits, drawn=None):
    """Mantissas and exponent of float32 ``x`` in float64, every step of which is exact here."""
    wide = x.astype(np.float64)
    exponent = unit_exponent(float(np.abs(wide).max()) if wide.size else 0.0, bits)
    if drawn is None:
        mantissa = np.rint(np.ldexp(wide, -exponent))  # ties to even
    else:
        mantissa = np.floor((np.trunc(np.ldexp(wide, 16 - exponent)) + drawn) / 2**16)
    return mantissa.astype(np.int64), exponent


def name(call=0, role=Role.INPUT):
    return RandomBits(seed=7, rank=0, layer=3, iteration=5, role=role, call=call)


def check(backend, x, bits):
    """Nearest and stochastic mapping of ``x``, bit for bit."""
    x = np.asarray(x, dtype=np.float32)
    tensor = torch.from_numpy(x.copy())
    drawn = name().draw(x.size).numpy().reshape(x.shape)
    for random, draws in ((None, None), (name(), drawn)):
        fixed = backend.quantize(tensor, bits, random)
        mantissa, exponent = expected(x, bits, draws)
        assert fixed.bits == bits
        assert fixed.mantissa.dtype == (torch.int8 if bits <= 8 else torch.int16)
        assert fixed.exponent.dtype == torch.int32 and fixed.exponent.numel() == 1
        assert int(fixed.exponent) == exponent
        np.testing.assert_array_equal(fixed.mantissa.numpy(), mantissa)
        assert np.abs(mantissa).max(initial=0) <= 2 ** (bits - 1) - 1


def float_of(field, fraction):
    """The float32 of an exponent field and 23 fraction bits."""
    return np.array(field << 23 | fraction, dtype=np.uint32).view(np.float32)


def spread(field, count, seed):
    """``count`` floats of both signs whose exponent fields reach from ``field`` down to zero."""
    generator = np.random.default_rng(seed)
    fields = np.maximum(field - generator.integers(0, 40, count), 0)
    fractions = generator.integers(0, 2**23, count)
    values = (fields << 23 | fractions).astype(np.uint32).view(np.float32)
    return values * generator.choice([-1, 1], count).astype(np.float32)


# The linear mapping, float32 -> fixed point


@pytest.mark.parametrize('bits', [4, 8, 16])
def test_every_exponent_field(backend, bits):
    for field in range(1, 255):
        top = float_of(field, 0x2AAAAA)
        check(backend, np.append(spread(field, 150, field), top), bits)


@pytest.mark.parametrize('bits', ALL_BITS)
def test_every_width(backend, bits):
    for field in (0, 1, 2, bits, 100, 127, 128, 254):
        check(backend, spread(field, 500, field), bits)


@pytest.mark.parametrize('bits', ALL_BITS)
def test_subnormals(backend, bits):
    generator = np.random.default_rng(0)
    for width in range(1, 24):
        patterns = generator.integers(0, 2**width, 100) | 1 << (width - 1)
        check(backend, patterns.astype(np.uint32).view(np.float32), bits)
    check(backend, [SMALLEST, -SMALLEST, 0.0], bits)
    check(backend, [2.0**-126, 2.0**-126 - SMALLEST, -SMALLEST], bits)


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('field', [1, 2, 127, 253, 254])
def test_top_of_the_binade_doubles_the_unit_instead_of_clipping(backend, bits, field):
    p = bits - 1
    last_that_fits = (2**p - 1) << (24 - p)
    exponents = []
    for mantissa24 in (last_that_fits - 1, last_that_fits, last_that_fits + 1, 2**24 - 1):
        top = float_of(field, mantissa24 & 0x7FFFFF)
        check(backend, [top, -top, top / 3, float_of(max(field - 9, 1), 12345)], bits)
        exponents.append(int(backend.quantize(torch.tensor([float(top)]), bits, None).exponent))
    base = field - 126 - p
    assert exponents == [base, base, base + 1, base + 1]


@pytest.mark.parametrize('bits', ALL_BITS)
def test_nearest_rounds_ties_to_even(backend, bits):
    largest = 2 ** (bits - 1) - 1
    halves = np.arange(-2 * largest, 2 * largest + 1) / 2
    fixed = backend.quantize(torch.tensor(halves, dtype=torch.float32), bits, None)
    assert int(fixed.exponent) == 0
    assert fixed.mantissa.tolist() == [round(h) for h in halves.tolist()]


@pytest.mark.parametrize('bits', ALL_BITS)
def test_integers_in_range_are_mapped_without_loss(backend, bits):
    largest = 2 ** (bits - 1) - 1
    integers = torch.arange(-largest, largest + 1)
    for random in (None, name()):
        fixed = backend.quantize(integers.float() * 2.0**-40, bits, random)
        assert torch.equal(fixed.mantissa.long(), integers) and int(fixed.exponent) == -40


@pytest.mark.parametrize('random', [None, name()])
def test_zeros_have_exponent_zero(backend, random):
    for zeros in ([0.0], [0.0, -0.0], [-0.0], []):
        fixed = backend.quantize(torch.tensor(zeros), 8, random)
        assert fixed.mantissa.tolist() == [0] * len(zeros) and int(fixed.exponent) == 0
    mixed = backend.quantize(torch.tensor([-0.0, 1.0, 0.0]), 8, random)
    assert mixed.mantissa.tolist() == [0, 64, 0] and int(mixed.exponent) == -6


@pytest.mark.parametrize('shape', [(), (1,), (2, 0, 3), (3, 5, 7, 2)])
def test_any_shape(backend, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    check(backend, x, 8)


def test_memory_layout_does_not_matter(backend):
    x = torch.randn(3, 8, 5, 6, generator=torch.Generator().manual_seed(0))
    plain = backend.quantize(x, 8, name())
    for same in (x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        other = backend.quantize(same, 8, name())
        assert torch.equal(plain.mantissa, other.mantissa)
        assert torch.equal(plain.exponent, other.exponent)


@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan, -math.nan])
@pytest.mark.parametrize('random', [None, name()])
def test_non_finite_values_are_refused(backend, value, random):
    for others in ([], [0.0] * 100, [LARGEST] * 100):
        for x in ([value, *others], [*others, value]):
            with pytest.raises(NonFiniteError):
                backend.quantize(torch.tensor(x), 8, random)


@pytest.mark.parametrize('bits', [3, 17, 0, -8, 8.0, '8', None, True])
def test_bits_outside_4_to_16_are_refused(bits):
    with pytest.raises(ValueError, match=r'^bits=.* was given, integers from 4 to 16 are accepted'):
        check_bits(bits)


# Stochastic rounding


@pytest.mark.parametrize('bits', [4, 8, 16])
def test_mean_over_all_random_values_is_exact_to_16_bits(bits):
    """All 2**16 values of the random bits: the mean is within 2**-16 units, nearer to zero."""
    p = bits - 1
    generator = np.random.default_rng(bits)
    drawn = torch.arange(2**16)
    last_that_fits = (2**p - 1) << (24 - p)
    cases = [(int(m), 24 - p) for m in generator.integers(2**23, last_that_fits, 20)]
    cases += [(last_that_fits, 24 - p), (last_that_fits + 1, 25 - p), (2**24 - 1, 25 - p)]
    cases += [(int(generator.integers(1, 2**24)), 24 - p + gap) for gap in range(1, 45)]
    for mantissa24, shift in cases:
        for sign in (1, -1):
            integer = torch.tensor(sign * mantissa24)
            rounded = shift_right_stochastic(integer, torch.tensor(shift), drawn)
            mean = Fraction(int(rounded.sum()), 2**16)
            assert 0 <= Fraction(mantissa24, 2**shift) - sign * mean < Fraction(1, 2**16)
            assert int(rounded.abs().max()) <= 2**p - 1


@pytest.mark.parametrize('bits', [4, 8, 16])
@pytest.mark.parametrize('scale', [1.0, 2.0**-135])
def test_expectation_over_draws_is_the_value(backend, bits, scale):
    """Within 5 standard errors (and 2**-16 units), for every element, the maximum included."""
    generator = np.random.default_rng(bits)
    values = generator.standard_normal(63) * 10.0 ** generator.uniform(-6, 0, 63)
    values = np.append(values / np.abs(values).max(), 1.999999) * scale  # a top that doubles
    values = torch.tensor(values, dtype=torch.float32)
    copies, calls = 100, 100
    draws = copies * calls
    total = torch.zeros(64, dtype=torch.int64)
    for call in range(calls):
        fixed = backend.quantize(values.repeat(copies), bits, name(call))
        total += fixed.mantissa.view(copies, 64).long().sum(0)
    exact = np.ldexp(values.double().numpy(), -int(fixed.exponent))
    fraction = np.abs(exact) % 1
    bound = 5 * np.sqrt(fraction * (1 - fraction) / draws) + 2.0**-16
    error = np.abs(total.numpy() / draws - exact)
    assert (error <= bound).all(), (error / bound).max()


def test_the_maximum_is_unbiased_and_in_range(backend):
    """Where nothing is clipped, even a maximum just above the largest mantissa keeps its mean."""
    for bits in (4, 8, 12):
        p = bits - 1
        top = (2**p - 1 + 0.5) / 2**p  # half a unit above the range if the unit were not doubled
        fixed = backend.quantize(torch.full((40_000,), top), bits, name())
        mantissa = fixed.mantissa.double()
        exact = top * 2.0 ** -int(fixed.exponent)
        fraction = exact % 1
        bound = 5 * math.sqrt(fraction * (1 - fraction) / 40_000) + 2.0**-16
        assert abs(mantissa.mean().item() - exact) <= bound
        assert mantissa.max() <= 2**p - 1


def test_repeated_mapping_draws_the_same_bits_and_another_call_others(backend):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    first, again = (backend.quantize(x, 8, name(call=3)).mantissa for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, backend.quantize(x, 8, name(call=4)).mantissa)


# The non-linear inverse mapping, integers -> float32


def nearest_float32(mantissa, exponent):
    """``mantissa * 2**exponent`` as the nearest float32, ties to even, through fractions."""
    value = Fraction(mantissa) * Fraction(2) ** exponent
    unit = max(abs(mantissa).bit_length() + exponent - 24, -149)
    count = round(value / Fraction(2) ** unit)  # Python rounds ties to even
    if abs(count) * Fraction(2) ** unit >= 2**128:
        return math.copysign(math.inf, mantissa)
    return math.copysign(math.ldexp(abs(count), unit), mantissa)


def patterns(x):
    return torch.as_tensor(x, dtype=torch.float32).view(torch.int32).tolist()


def test_inverse_of_int32_is_the_nearest_float32(backend):
    generator = np.random.default_rng(0)
    widths = generator.integers(0, 32, 2000)
    mantissas = generator.integers(-(2**31), 2**31, 2000) >> widths
    edges = [0, 1, -1, 2**24 - 1, 2**24, 2**24 + 1, 2**24 + 2, 2**24 + 3, 2**25 + 2, 2**25 + 6]
    mantissas = np.concatenate([mantissas, edges, [2**31 - 1, -(2**31) + 1]]).astype(np.int32)
    exponents = [*range(-185, -115), *range(-60, 60, 7), *range(90, 130)]
    for exponent in exponents:
        got = backend.dequantize(torch.from_numpy(mantissas), torch.tensor(exponent))
        with np.errstate(over='ignore', under='ignore'):
            want = np.ldexp(mantissas.astype(np.float64), exponent).astype(np.float32)
        assert got.dtype == torch.float32
        assert patterns(got) == patterns(torch.from_numpy(want)), exponent


def test_inverse_of_int64_is_the_nearest_float32(backend):
    generator = np.random.default_rng(1)
    mantissas = [
        int(m) >> int(w)
        for m, w in zip(
            generator.integers(-(2**62) + 1, 2**62, 300),
            generator.integers(0, 62, 300),
            strict=True,
        )
    ]
    for width in (25, 26, 40, 53, 62):  # ties, and their neighbours, to both sides
        for kept in (2**23, 2**23 + 1, 2**24 - 1):
            tie = (2 * kept + 1) << (width - 25)
            mantissas += [tie, -tie, tie + 1, tie - 1]
    mantissas = [m for m in mantissas if abs(m) < 2**62]
    for exponent in (-300, -211, -210, -190, -174, -173, -150, -80, -3, 0, 40, 66, 67, 90, 150):
        got = backend.dequantize(torch.tensor(mantissas), torch.tensor(exponent))
        want = [nearest_float32(m, exponent) if m else 0.0 for m in mantissas]
        assert patterns(got) == patterns(want), exponent


def test_inverse_overflows_to_infinity_and_the_next_mapping_reports_it(backend):
    top = 2**24 - 1
    mantissas = torch.tensor([top, -top, 2 * top, 2 * top + 1, 1])
    got = backend.dequantize(mantissas, torch.tensor(104))
    assert got.tolist() == [LARGEST, -LARGEST, math.inf, math.inf, 2.0**104]
    with pytest.raises(NonFiniteError):
        backend.quantize(got, 8, None)


@pytest.mark.parametrize('bits', ALL_BITS)
def test_mapping_the_inverse_again_loses_nothing(backend, bits):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(bits))
    fixed = backend.quantize(x, bits, name())
    value = backend.dequantize(fixed.mantissa, fixed.exponent)
    again = backend.quantize(value, bits, name(call=1))
    assert torch.equal(backend.dequantize(again.mantissa, again.exponent), value)


def test_backend_for_names_what_it_accepts(monkeypatch):
    monkeypatch.setattr(backends, 'wish', 'fpga')
    with pytest.raises(ValueError, match="MMINT_BACKEND='fpga' was given.*accepted"):
        backends.backend_for(torch.device('cpu'))
    monkeypatch.setattr(backends, 'wish', 'reference')
    assert backends.backend_for(torch.device('cpu')) is reference
