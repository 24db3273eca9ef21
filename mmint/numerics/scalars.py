"""Fixed-point scalars: learning rate, momentum and weight decay as integers of 16 bits."""

from __future__ import annotations

import math

SCALAR_BITS = 15  # of a magnitude


def scalar(value: float) -> tuple[int, int]:
    """A scalar as (mantissa of 16 bits, exponent), rounded to nearest."""
    fraction, exponent = math.frexp(value)
    mantissa = round(math.ldexp(fraction, SCALAR_BITS))
    if abs(mantissa) == 1 << SCALAR_BITS:
        mantissa, exponent = mantissa // 2, exponent + 1
    return mantissa, exponent - SCALAR_BITS
