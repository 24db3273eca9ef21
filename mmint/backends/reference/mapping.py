"""float32 to integers and back: paper sections 3.1 and 3.2.

Shifts, masks and integer comparisons on bit patterns only. In the linear mapping

    t = floor(|x| / 2**exponent * 2**16)        a mantissa with 16 fractional bits
    mantissa = sign * ((t + r) >> 16)           r: 16 random bits

so a mantissa is rounded up with probability frac(t), which is the discarded fraction cut to 16
bits: ``|E[mantissa] - x / 2**exponent| < 2**-16``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint, NonFiniteError, RandomBits, mantissa_dtype
from ...numerics.float32 import NOT_FINITE, fields, split_sign, to_float32
from ...numerics.integers import shift_right_even, shift_right_stochastic


def quantize(
    x: Tensor, bits: int, random: RandomBits | None, largest: int | Tensor | None = None
) -> FixedPoint:
    """As `Backend.quantize`."""
    negative, magnitude = split_sign(x)
    exponent = shared_exponent(magnitude, bits, None if largest is None else int(largest))
    mantissa = _mantissa_at(magnitude, exponent, random).to(mantissa_dtype(bits))
    mantissa = torch.where(negative, -mantissa, mantissa)
    return FixedPoint(mantissa, torch.tensor(exponent, dtype=torch.int32, device=x.device), bits)


def shared_exponent(magnitude: Tensor, bits: int, largest: int | None = None) -> int:
    """The exponent at which the magnitudes (bit patterns) fit ``bits`` bits, rounded either way.

    Raises:
        NonFiniteError: if a magnitude is infinite or not a number.
    """
    p = bits - 1
    if largest is None:
        largest = int(magnitude.max()) if magnitude.numel() else 0
    field, mantissa24 = fields(torch.tensor(largest))
    if field == NOT_FINITE:
        raise NonFiniteError
    if not largest:
        return 0
    scale = max(int(field), 1)
    if mantissa24 > ((1 << p) - 1) << (24 - p):
        scale += 1
    return scale - 126 - p


def quantize_at(x: Tensor, exponent: int, random: RandomBits | None) -> Tensor:
    """Integers ``x / 2**exponent``, rounded, as int64; the caller sees to it that they fit."""
    negative, magnitude = split_sign(x)
    mantissa = _mantissa_at(magnitude, exponent, random)
    return torch.where(negative, -mantissa, mantissa)


def _mantissa_at(magnitude: Tensor, exponent: int, random: RandomBits | None) -> Tensor:
    drawn = None
    if random is not None:
        drawn = random.draw(magnitude.numel(), magnitude.device).view(magnitude.shape)
    return mantissa_at(magnitude, exponent, drawn)


def mantissa_at(magnitude: Tensor, exponent: int, drawn: Tensor | None) -> Tensor:
    """``|x| / 2**exponent`` of bit patterns, as int64; ``drawn`` as in `shift_right_stochastic`.

    Rounded to nearest where ``drawn`` is None.
    """
    field, mantissa24 = fields(magnitude)
    shift = exponent + 150 - field.clamp(min=1)  # |x| / 2**exponent = mantissa24 / 2**shift
    if drawn is None:
        return shift_right_even(mantissa24, shift)
    return shift_right_stochastic(mantissa24, shift, drawn)


def dequantize(mantissa: Tensor, exponent: Tensor | int) -> Tensor:
    """As `Backend.dequantize`."""
    return to_float32(mantissa, exponent)
