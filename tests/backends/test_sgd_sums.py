"""The definition of an update's sums: what they expect, and that nothing is clipped."""

import random
from fractions import Fraction

import pytest
import torch

from mmint.backends.reference.sgd import Term, _narrow

DRAWS = 2**16


class AllDraws:
    """Random bits that take every value once."""

    def draw(self, numel, device):
        assert numel == DRAWS
        return torch.arange(DRAWS)


def term(value, exponent, largest):
    """``DRAWS`` times the same integer, among others of which the largest is given."""
    return Term(torch.full((DRAWS,), value), exponent, largest, exponent)


def gradient(value, exponent, largest, largest_exponent):
    return Term(
        torch.full((DRAWS,), value), torch.full((DRAWS,), exponent), largest, largest_exponent
    )


def cases(count):
    rng = random.Random(7)
    for _ in range(count):
        terms, value = [], Fraction(0)
        for bits, spread in ((30, 40), (30, 40), (24, 60)):
            largest = rng.randrange(2 ** (bits - 2), 2**bits)
            integer = rng.choice([largest, -largest, rng.randint(-largest, largest), 1, 0])
            exponent = -bits - rng.randrange(spread)
            value += integer * Fraction(2) ** exponent
            if bits == 24:
                lower = exponent - rng.randrange(30)  # an element far below the largest
                value += integer * (Fraction(2) ** lower - Fraction(2) ** exponent)
                terms.append(gradient(integer, lower, largest, exponent))
            else:
                terms.append(term(integer, exponent, largest))
        yield terms, value


@pytest.mark.parametrize('bits', [4, 8, 16])
def test_the_mean_over_all_draws_is_the_sum_to_2_to_the_minus_16_units(bits):
    most = 2 ** (bits - 1) - 1
    for terms, value in cases(60):
        made = _narrow(terms, bits, AllDraws())
        exact = value / Fraction(2) ** made.exponent
        mean = Fraction(int(made.mantissa.sum()), DRAWS)
        assert abs(mean - exact) < Fraction(1, 2**16)
        assert made.mantissa.abs().max() <= made.largest <= most
        assert made.mantissa.max() - made.mantissa.min() <= 1


def test_the_exponent_is_that_of_the_bound():
    """The lowest at which the largest magnitudes fit when they add up."""
    for terms, _ in cases(60):
        bound = sum(t.largest * Fraction(2) ** t.largest_exponent for t in terms)
        made = _narrow(terms, 8, AllDraws())
        assert bound <= 127 * Fraction(2) ** made.exponent
        assert bound * Fraction(1 + 2**-36) > 127 * Fraction(2) ** (made.exponent - 1)


def test_terms_that_are_zero_do_not_count():
    nothing = term(0, 50, 0)
    made = _narrow([term(3, 0, 100), nothing], 8, AllDraws())
    assert made.exponent == 0 and (made.mantissa == 3).all()
    made = _narrow([nothing, nothing], 8, AllDraws())
    assert made.exponent == 0 and not made.mantissa.any() and made.largest == 0
