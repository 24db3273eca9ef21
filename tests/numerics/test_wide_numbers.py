"""Wide numbers, against Python's integers."""

import math
import random
from fractions import Fraction

import pytest
import torch
import torch.utils.checkpoint

from mmint.backends import NonFiniteError
from mmint.numerics import wide
from mmint.numerics.wide import Wide


def mantissas(count=2000):
    """Ends of the range and random interiors, positive."""
    generator = random.Random(0)
    ends = [2**30, 2**30 + 1, 2**30 + 2**29, 2**31 - 2, 2**31 - 1]
    return ends + [generator.randrange(2**30, 2**31) for _ in range(count)]


def wides(seed, count=2000):
    """Random numbers of both signs, some zero, with exponents near and far."""
    generator = random.Random(seed)
    signed = [generator.choice([-1, 1, 1, 0]) * m for m in mantissas(count)]
    exponents = [generator.choice([0, -3, 5, 29, 30, 31, -32, 70, -200]) for _ in signed]
    return Wide(torch.tensor(signed), torch.tensor(exponents))


def exact(x):
    pairs = zip(x.mantissa.tolist(), x.exponent.tolist(), strict=True)
    return [Fraction(m) * Fraction(2) ** e for m, e in pairs]


def assert_close(got, want, bound):
    """Relative errors, exact zeros, and mantissas of 31 bits."""
    for g, w in zip(exact(got), want, strict=True):
        assert abs(g - w) <= bound * abs(w)
    assert all(m == 0 or 2**30 <= abs(m) < 2**31 for m in got.mantissa.tolist())


def test_wide_operations_round_once():
    a, b = wides(1), wides(2)
    bound = Fraction(1, 2**31)
    pairs = list(zip(exact(a), exact(b), strict=True))
    assert_close(wide.multiply(a, b), [x * y for x, y in pairs], bound)
    # Each operand is known to 2**-61 of the larger, so only what they lose in common counts.
    assert_close(wide.add(a, b), [x + y for x, y in pairs], bound + Fraction(1, 2**58))
    positive = b.mantissa > 0
    quotients = [x / y for x, y in pairs if y > 0]
    assert_close(wide.divide(a[positive], b[positive]), quotients, 2 * bound)
    integers = [(-1) ** i * (m << i % 90) + i for i, m in enumerate(mantissas())]
    assert_close(wide.from_integers(integers, torch.device('cpu')), integers, bound)


def test_wide_numbers_hold_every_float():
    patterns = [0, 1, 0x7FFFFF, 0x800000, 0x3F800001, 0x7F7FFFFF]
    x = torch.tensor(patterns + [p - 2**31 for p in patterns], dtype=torch.int32)
    x = torch.cat(
        [x.view(torch.float32), torch.randn(1000) * 10.0 ** torch.randint(-38, 38, (1000,))]
    )
    got = wide.from_float(x)
    assert exact(got) == [Fraction(v) for v in x.tolist()]
    assert torch.equal(wide.to_float(got), x)
    for bad in (math.inf, -math.inf, math.nan):
        with pytest.raises(NonFiniteError):
            wide.from_float(torch.tensor([1.0, bad]))


def test_square_root_is_the_integer_square_root():
    generator = random.Random(0)
    roots = [2**30, 2**30 + 1, 2**31 - 1] + [generator.randrange(2**30, 2**31) for _ in range(3000)]
    d = [r * r + offset for r in roots for offset in (0, -1, 1, 2 * r)]
    d = [v for v in d if 2**60 <= v < 2**62] + [2**62 - 1]
    assert wide.square_root(torch.tensor(d)).tolist() == [math.isqrt(v) for v in d]


def test_rsqrt_errs_by_less_than_its_bound_over_the_whole_range():
    some = mantissas(40)
    for exponent in range(-700, 700):
        x = Wide(torch.tensor(some), torch.full((len(some),), exponent))
        assert_rsqrt(x)
    many = mantissas(20000)
    for exponent in (-1, 0):
        assert_rsqrt(Wide(torch.tensor(many), torch.full((len(many),), exponent)))


def assert_rsqrt(x):
    """``|r * sqrt(x) - 1| <= 2**-30``, that is ``r**2 * x`` within the squares of both ends."""
    r = wide.rsqrt(x)
    ends = [(2**30 + sign) ** 2 for sign in (-1, 1)]
    columns = (x.mantissa, x.exponent, r.mantissa, r.exponent)
    for m, e, rm, re in zip(*(c.tolist() for c in columns), strict=True):
        assert 2**30 <= rm < 2**31
        product, power = m * rm * rm, e + 2 * re + 60
        scaled = product << power if power >= 0 else Fraction(product, 1 << -power)
        assert ends[0] <= scaled <= ends[1]
