"""The arithmetic that C and CUDA share, against Python's integers."""

import ctypes
import itertools
import math
import random
import struct
import subprocess
from fractions import Fraction

import pytest
import torch
from headers import BACKENDS, HEADERS, RandomWords, Wide, box_weights, compiled

from mmint.backends.host import interpolation
from mmint.backends.reference import addition, sgd
from mmint.backends.reference.norms import coefficients, layer
from mmint.numerics import RandomBits, Role, wide
from mmint.numerics.integers import FRACTION_BITS

rng = random.Random(5)


@pytest.fixture(scope='module')
def arithmetic(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp('arithmetic'))


def pattern(x):
    """The bits of a float32."""
    return struct.unpack('<I', struct.pack('<f', x))[0]


def number(bits):
    """The float32 of a pattern."""
    return struct.unpack('<f', struct.pack('<I', bits))[0]


def nearest_even(value):
    """The integer nearest to a Fraction, ties to even."""
    return round(value)


def split(integer):
    """A 128-bit integer as its two halves."""
    return integer >> 64, integer & (2**64 - 1)


def two_to(exponent):
    return Fraction(2) ** exponent


def integers(bits, count=300):
    """Integers of every length up to ``bits``, and those about powers of two."""
    edges = [2**k + d for k in range(bits) for d in (-1, 0, 1)]
    some = [rng.getrandbits(rng.randint(1, bits)) for _ in range(count)]
    return [n for n in edges + some if 0 <= n < 2**bits]


def floats(count=400):
    """Finite float32 of every kind."""
    edges = [0, 1, 0x7FFFFF, 0x800000, 0x800001, 0x3F800000, 0x7F7FFFFF]
    some = [rng.getrandbits(8) % 255 << 23 | rng.getrandbits(23) for _ in range(count)]
    return [p | sign << 31 for p in edges + some for sign in (0, 1)]


# ---- the language ----


@pytest.mark.parametrize('compiler', ['gcc -std=gnu11 -x c', 'g++ -std=c++17 -x c++'])
def test_every_header_is_c_and_cpp_and_stands_alone(compiler, tmp_path):
    for header in HEADERS:
        (tmp_path / header.name).write_text(f'#include "arithmetic/{header.name}"\n')
    command = [*compiler.split(), '-fsyntax-only', '-Wall', '-Wextra', '-Werror', f'-I{BACKENDS}']
    subprocess.run([*command, *map(str, tmp_path.iterdir())], check=True)


def test_constants_are_those_of_the_reference(arithmetic):
    roles = {role.name: role.value for role in Role if role.name.startswith('SGD')}
    assert arithmetic.constants == {
        'FRACTION_BITS': FRACTION_BITS,
        'PHILOX_ROUNDS': 7,
        'SCALE_BITS': coefficients.SCALE_BITS,
        'WIDTH': wide.WIDTH,
        'LOWEST': wide.LOWEST,
        'LAYER_WEIGHT_BITS': layer.LAYER_WEIGHT_BITS,
        'NORMALISED_BITS': layer.NORMALISED_BITS,
        'LAYER_SHIFT_BITS': layer.LAYER_SHIFT_BITS,
        'ADDITION_ALIGNMENT': addition.MAX_ALIGNMENT,
        'SUM_FRACTION_BITS': sgd.SUM_FRACTION_BITS,
        'BOUND_BITS': sgd.BOUND_BITS,
        'POSITION_BITS': interpolation.POSITION_BITS,
        'WEIGHT_BITS': interpolation.WEIGHT_BITS,
        'FARTHEST_BITS': interpolation.FARTHEST.bit_length() - 1,
        **roles,
    }


# ---- shifts and fields ----


def test_bit_length(arithmetic):
    for n in integers(64):
        assert arithmetic.bit_length(n) == n.bit_length()


def test_shifts_to_nearest_even(arithmetic):
    for n in integers(63):
        for shift in (-70, -64, -1, 0, 1, 2, 17, 30, 62, 63, 64, 65, 1000):
            exact = nearest_even(n / two_to(shift))
            if shift < -63:
                exact = 0  # nobody asks for them
            assert arithmetic.shift_right_even(n, shift) == exact % 2**64
            if n < 2**62 and shift > -64 and (shift >= 0 or exact < 2**64):
                assert arithmetic.shift_either_way_even(n, shift) == exact


def test_a_stochastic_shift_rounds_up_with_the_fraction_s_probability(arithmetic):
    for n in integers(40, 60):
        for shift in (-3, 0, 1, 5, 16, 17, 33, 63, 64, 100):
            for drawn in (0, 1, 2**15, 2**16 - 1):
                for signed in (n, -n):
                    exact = math.trunc(signed / two_to(shift) * 2**16) + drawn >> 16
                    if shift <= 0:
                        exact = signed << -shift
                    assert arithmetic.shift_right_stochastic(signed, shift, drawn) == exact


def test_fields(arithmetic):
    for p in floats():
        magnitude = p & 0x7FFFFFFF
        field, mantissa = arithmetic.field_of(magnitude), arithmetic.mantissa24_of(magnitude)
        assert mantissa * two_to(max(field, 1) - 150) == Fraction(number(magnitude))


# ---- mapping ----


@pytest.mark.parametrize('bits', [4, 8, 11, 16])
def test_the_exponent_is_the_lowest_at_which_the_largest_fits(arithmetic, bits):
    most = 2 ** (bits - 1) - 1
    for p in floats():
        top = p & 0x7FFFFFFF
        exponent = arithmetic.exponent_of(top, bits)
        if not top:
            assert exponent == 0
            continue
        assert Fraction(number(top)) / two_to(exponent) <= most
        lowest = exponent == 1 - 126 - (bits - 1)  # subnormals scale as the smallest normal numbers
        assert lowest or Fraction(number(top)) / two_to(exponent - 1) > most


@pytest.mark.parametrize('bits', [4, 8, 16])
def test_an_element_is_rounded_with_its_bits_or_to_nearest(arithmetic, bits):
    for p in floats():
        exponent = arithmetic.exponent_of(p & 0x7FFFFFFF, bits) + rng.choice([0, 0, 1, 7, 24, 40])
        value, drawn = Fraction(number(p)) / two_to(exponent), rng.getrandbits(16)
        stochastic = math.trunc(value * 2**16) + drawn >> 16
        for one in (arithmetic.quantize_one, arithmetic.map_one):
            assert one(p, exponent, True, drawn) == stochastic
            assert one(p, exponent, False, drawn) == nearest_even(value)


def to_float32(value):
    """The float32 nearest to a Fraction, ties to even; infinite where there is none."""
    if not value:
        return 0.0
    exponent = max(math.frexp(value)[1] if abs(value) < 2**900 else 2000, -125) - 24
    rounded = nearest_even(value / two_to(exponent)) * two_to(exponent)
    return float(rounded) if abs(rounded) < 2**128 else math.copysign(math.inf, value)


def test_integers_become_the_nearest_float32(arithmetic):
    for n in integers(62):
        for exponent in (-250, -190, -160, -149, -100, -3, 0, 50, 66, 100, 128):
            for sign in (1, -1):
                exact = to_float32(n * two_to(exponent)) * (sign if n else 1)
                assert pattern(arithmetic.dequantize_one(sign * n, exponent)) == pattern(exact)


def test_exponents_beyond_all_float32_are_brought_near(arithmetic):
    for exponent in (-(2**62), -(10**5), -7, 0, 10**5, 2**62):
        assert arithmetic.clamped_exponent(exponent) == max(-(10**5), min(10**5, exponent))


def test_scales_are_exact_where_products_with_them_are_normal(arithmetic):
    for bits in (31, 63):
        for exponent in range(-140, 128):
            exact = arithmetic.scale_is_exact(exponent, bits)
            assert exact == (exponent >= -126 and 2**bits * two_to(exponent) < 2**128)
            if exact:
                assert arithmetic.scale_of(exponent) == two_to(exponent)


# ---- random bits ----


def test_the_bits_of_an_element_are_those_of_the_definition(arithmetic):
    name = RandomBits(seed=2**32 - 5, rank=3, layer=77, iteration=10**6, role=Role.BIAS, call=9)
    drawn = name.draw(300).tolist()
    assert [arithmetic.draw_one(RandomWords(1, *name.words()), i) for i in range(300)] == drawn


# ---- wide numbers ----


def value_of(a):
    return a.mantissa * two_to(a.exponent)


def narrowed(value):
    """A Fraction rounded to 31 bits."""
    if not value:
        return Fraction(0)
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length() - 32
    while abs(value) / two_to(exponent) >= 2**31:
        exponent += 1
    return nearest_even(value / two_to(exponent)) * two_to(exponent)


def wides(count=150):
    some = [Wide(0, 0), Wide(2**30, 0), Wide(2**31 - 1, -31), Wide(-(2**30), 5)]
    for _ in range(count):
        sign = rng.choice((1, -1))
        some.append(Wide(sign * rng.randrange(2**30, 2**31), rng.randint(-60, 60)))
    return some


def is_normal(a):
    return a.mantissa == 0 or 2**30 <= abs(a.mantissa) < 2**31


def test_integers_and_floats_become_wide_numbers(arithmetic):
    for n in integers(62):
        for sign in (1, -1):
            made = arithmetic.narrow(sign * n, -9)
            assert is_normal(made) and value_of(made) == narrowed(Fraction(sign * n, 2**9))
    for n in integers(126):
        for sign in (1, -1):
            made = arithmetic.test_from_integer(*split(sign * n))
            assert is_normal(made) and value_of(made) == narrowed(Fraction(sign * n))
    for p in floats():
        assert value_of(arithmetic.from_float(number(p))) == Fraction(number(p))


def test_products_and_sums_are_rounded_once(arithmetic):
    some = wides()
    for a, b in zip(some, rng.sample(some, len(some)), strict=True):
        product = arithmetic.multiply(a, b)
        assert is_normal(product) and value_of(product) == narrowed(value_of(a) * value_of(b))
        total = arithmetic.plus(a, b)
        if abs(a.exponent - b.exponent) <= 30 or not a.mantissa or not b.mantissa:
            assert is_normal(total) and value_of(total) == narrowed(value_of(a) + value_of(b))
        assert arithmetic.to_float(a) == to_float32(value_of(a))


def test_quotients_and_roots_are_within_their_bounds(arithmetic):
    for a, b in zip(wides(), reversed(wides()), strict=True):
        if b.mantissa <= 0:
            continue
        quotient, exact = value_of(arithmetic.divide(a, b)), value_of(a) / value_of(b)
        assert abs(quotient - exact) <= abs(exact) * two_to(-30)
        root = value_of(arithmetic.inverse_root(b))
        assert abs(root**2 * value_of(b) - 1) <= 2 * two_to(-30) + two_to(-59)


def test_a_wide_number_at_an_exponent(arithmetic):
    for a in wides():
        for exponent in (a.exponent - 20, a.exponent, a.exponent + 13, a.exponent + 40):
            exact = nearest_even(value_of(a) / two_to(exponent))
            assert arithmetic.to_integer(a, exponent) == exact


def test_division_of_long_integers(arithmetic):
    for _ in range(500):
        divisor = rng.randint(1, 2 ** rng.randint(1, 40))
        quotient = rng.randint(-(2**61), 2**61)
        value = quotient * divisor + rng.choice([0, divisor // 2, rng.randrange(divisor)])
        exact = nearest_even(Fraction(value, divisor))
        assert arithmetic.test_divide_even(*split(value), divisor) == exact


# ---- what is made of them ----


def test_coefficients_of_a_group(arithmetic):
    for bits in (8, 16):
        most = 2 ** (bits - 1) - 1
        x = [rng.randint(-most, most) for _ in range(50)]
        s1, s2, exponent, eps = sum(x), sum(v * v for v in x), -bits, Wide(2**30, -47)
        spread = arithmetic.spread_of(s1, s2, len(x), exponent, eps)
        mean = Fraction(s1, len(x))
        var = (Fraction(s2, len(x)) - mean**2) * two_to(2 * exponent) + value_of(eps)
        assert not spread.constant
        assert abs(value_of(spread.rstd) ** 2 * var - 1) < two_to(-27)
        scale = Wide(spread.rstd.mantissa, spread.rstd.exponent + exponent)
        c = arithmetic.forward_coefficients(scale, Wide(0, 0), s1, len(x), bits)
        assert 2**21 <= c.p <= 2**22 and c.q == 0
        assert c.r == -nearest_even(c.p * s1 / Fraction(len(x)))
    assert arithmetic.spread_of(21, 63, 7, 0, Wide(2**30, -50)).constant


def test_a_bias_goes_beside_a_sum(arithmetic):
    for p in floats(100):
        top = p & 0x7FFFFFFF
        for exponent in (-200, -100, -30, 0):
            excess = arithmetic.bias_excess(top, exponent)
            rounded = Fraction(number(top)) / two_to(exponent + excess)
            assert rounded < 2**62 and (not excess or rounded >= 2**61 or top < 0x800000)
    for _ in range(200):
        total, bias, excess = rng.randint(-(2**40), 2**40), rng.randint(-(2**30), 2**30), 5
        exact = nearest_even(Fraction(total, 2**excess)) + bias
        assert arithmetic.finish_sum(total, excess, bias, -20) == to_float32(exact * two_to(-20))


@pytest.mark.parametrize('apart', [0, 10, 39, 40, 41, 60])
def test_two_elements_are_aligned_and_added(arithmetic, apart):
    bits, name = 8, RandomBits(1, 0, 2, 3, Role.INPUT)
    x, y = torch.randn(2, 200)
    x[0] = 0.0
    y = y * 2.0**-apart
    for random_bits in (name, None):
        drawn = [0] * 200 if random_bits is None else random_bits.draw(200).tolist()
        tops = [pattern(float(t.abs().max())) for t in (x, y)]
        made = [
            arithmetic.test_add(
                *tops, bits, pattern(a), pattern(b), random_bits is not None, r
            )
            for a, b, r in zip(x.tolist(), y.tolist(), drawn, strict=True)
        ]  # fmt: skip
        assert made == addition.add(x, y, bits, random_bits).tolist()


@pytest.mark.parametrize('bits', [4, 8, 16])
def test_sums_of_an_update_are_narrowed_to_fit(arithmetic, bits):
    most = 2 ** (bits - 1) - 1
    for top in integers(60):
        shift = arithmetic.sgd_narrowing(top, bits)
        assert top / two_to(shift) <= most
        assert not shift or top / two_to(shift - 1) > most


# ---- interpolation ----

PLACE = 2**24  # a position's unit is a part of it


def test_corners_of_boxes_become_the_nearest_positions(arithmetic):
    for p in floats():
        for scale in (1.0, 0.125, 1 / 14, 2.0**-30, 3e30):
            factor = pattern(scale)
            exact = nearest_even(Fraction(number(p)) * Fraction(number(factor)) * PLACE)
            assert arithmetic.position_of(p, factor) == max(-(2**52), min(2**52, exact))


def test_boxes_are_finite_and_of_images_that_are_there(arithmetic):
    def good(*box):
        return arithmetic.box_is_good((ctypes.c_float * 5)(*box), 2)

    assert good(0, 1, 2, 3, 4) and good(1.9, -5e30, 0, 5e30, -1) and good(-0.9, 0, 0, 0, 0)
    assert not good(2, 0, 0, 1, 1) and not good(-1, 0, 0, 1, 1)
    for value in (math.nan, math.inf, -math.inf):
        for place in range(5):
            box = [0.0] * 5
            box[place] = value
            assert not good(*box)


def weights_of(start, end, size, results, ratio, aligned):
    """Of means of samples between two places each, as RoIAlign defines them, in integers."""
    length = end - start if aligned else max(end - start, PLACE)
    samples = ratio or max(0, -(-length // (results * PLACE)))
    rows = []
    for i in range(results):
        exact = [0] * (size + 1)
        for q in range(i * samples, (i + 1) * samples):
            position = start + (2 * q + 1) * length // (2 * results * samples)
            if not -PLACE <= position <= size * PLACE:
                continue
            low, part = divmod(min(max(position, 0), (size - 1) * PLACE), PLACE)
            exact[low] += PLACE - part
            exact[low + 1] += part
        unit = max(1, samples) * 2**10
        sums = [(sum(exact[:n]) + unit // 2) // unit for n in range(size + 1)]
        rows.append([b - a for a, b in itertools.pairwise(sums)])
    return rows


def axes(count=400):
    """Boxes of every kind: in and around an axis, points, turned round, longer than it."""
    for _ in range(count):
        size, results, ratio = rng.randint(1, 40), rng.randint(1, 14), rng.choice([0, 0, 1, 2, 3])
        start = rng.choice([0, -PLACE, rng.randint(-60 * PLACE, 60 * PLACE)])
        length = rng.choice([0, 1, PLACE, 14 * PLACE, rng.randint(0, 90 * PLACE)])
        end = start + length * rng.choice([1, 1, 1, -1])
        yield start, end, size, results, ratio, rng.random() < 0.6


def test_weights_along_an_axis_of_a_box(arithmetic):
    for axis in axes():
        assert box_weights(arithmetic, *axis) == weights_of(*axis), axis


def test_weights_of_a_box_that_is_far_larger_than_its_image(arithmetic):
    """By the whole of many samples, and by the few in the image of half a billion."""
    for start, end in ((-(10**4), 10**4 + 7), (-5, 10**4), (-(10**4), 3)):
        axis = start * PLACE, end * PLACE + 12345, 20, 7, 0, True
        assert box_weights(arithmetic, *axis) == weights_of(*axis)
    for start, end in ((-(2**52), 2**52), (-(2**52), 0), (0, 2**52), (2**52, 2**52)):
        made = box_weights(arithmetic, start, end, 20, 7, 0, True)
        assert all(0 <= weight <= 1 for row in made for weight in row)


def test_weights_add_up_to_one_in_the_image(arithmetic):
    for start in (0, 3 * PLACE // 2):
        for length in (1, PLACE, 7 * PLACE + 5, 17 * PLACE):
            made = box_weights(arithmetic, start, start + length, 20, 7, 0, True)
            assert [sum(row) for row in made] == [2**14] * 7
