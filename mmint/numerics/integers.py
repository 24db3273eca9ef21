"""Integers and their rounding: shifts of int64 magnitudes, to nearest or stochastically."""

from __future__ import annotations

import torch
from torch import Tensor

FRACTION_BITS = 16


def bit_length(magnitude: Tensor) -> Tensor:
    """Number of significant bits of int64 ``magnitude >= 0``: 63 less the leading zeros."""
    length = torch.zeros_like(magnitude)
    for step in (32, 16, 8, 4, 2, 1):
        longer = magnitude >= 1 << step
        magnitude = torch.where(longer, magnitude >> step, magnitude)
        length += step * longer
    return length + magnitude.clamp(max=1)


def shift_right_even(magnitude: Tensor, shift: Tensor) -> Tensor:
    """``magnitude / 2**shift`` for int64 ``magnitude >= 0``, to nearest, ties to even.

    Negative shifts go left; the caller sees to it that the result fits.
    """
    right = shift.clamp(0, 63)
    kept = torch.where(right < 63, magnitude >> right.clamp(max=62), 0)
    rest = magnitude - (kept << right.clamp(max=62))
    half = torch.where(right > 0, 1 << (right - 1).clamp(0, 62), 0)
    up = (rest > half) | ((rest == half) & (half > 0) & (kept & 1 == 1))
    return (kept + up) << (-shift).clamp(min=0)


def shift_right_stochastic(integer: Tensor, shift: Tensor, drawn: Tensor) -> Tensor:
    """``floor(integer / 2**shift + drawn / 2**16)`` for int64, the first cut to 16 fraction bits.

    It is cut towards zero. ``drawn`` holds 16 random bits for each element. Negative shifts go
    left; the caller sees to it that the result fits.
    """
    cut = shift - FRACTION_BITS
    magnitude = integer.abs()
    fine = torch.where(
        cut >= 0,
        torch.where(cut < 63, magnitude >> cut.clamp(0, 62), 0),
        magnitude << (-cut).clamp(0, FRACTION_BITS),
    )
    rounded = (torch.where(integer < 0, -fine, fine) + drawn) >> FRACTION_BITS
    return torch.where(shift > 0, rounded, integer << (-shift).clamp(min=0))


def divide_even(value: int, divisor: int) -> int:
    """The integer nearest to ``value / divisor`` for ``divisor > 0``, ties to even."""
    quotient, rest = divmod(value, divisor)
    return quotient + (2 * rest > divisor or (2 * rest == divisor and quotient % 2 == 1))
