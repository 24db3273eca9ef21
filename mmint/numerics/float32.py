"""float32 as bit patterns: taken apart, and packed from integers (paper section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from .integers import bit_length, shift_right_even

NOT_FINITE = 255  # the exponent field of infinities and NaN


class NonFiniteError(FloatingPointError):
    """A value that is infinite or not a number, where integers are to be made of it."""


def split_sign(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sign (bool) and magnitude (int64 bit pattern without sign) of a float32 tensor."""
    pattern = x.contiguous().view(torch.int32).to(torch.int64)
    return pattern < 0, pattern & 0x7FFFFFFF


def fields(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Exponent field and 24-bit mantissa of bit patterns; subnormals have no hidden bit."""
    field = magnitude >> 23
    return field, (magnitude & 0x7FFFFF) | (field.clamp(max=1) << 23)


def to_float32(mantissa: Tensor, exponent: Tensor | int) -> Tensor:
    """Non-linear inverse mapping: the float32 nearest to ``mantissa * 2**exponent``.

    Normalise, round once to what float32 can hold there (24 bits, fewer for subnormals; ties to
    even), pack. Overflow gives infinity, which the next mapping reports.

    Args:
        mantissa: any integer dtype, any shape, magnitudes below 2**62.
        exponent: the exponent that the mantissas share, or one for each, int64.
    """
    mantissa = mantissa.to(torch.int64)
    magnitude = mantissa.abs()
    shift = (bit_length(magnitude) - 24).clamp(min=-149 - exponent)
    rounded = shift_right_even(magnitude, shift)
    pattern = ((shift + exponent + 149) << 23) + rounded
    pattern = torch.where(pattern >= NOT_FINITE << 23, NOT_FINITE << 23, pattern)
    pattern = torch.where(magnitude == 0, 0, pattern)
    pattern = torch.where(mantissa < 0, pattern - 2**31, pattern)
    return pattern.to(torch.int32).view(torch.float32)
