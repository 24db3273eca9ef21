"""float32 to integers and back: paper sections 3.1 and 3.2.

Shifts, masks and integer comparisons on bit patterns only. In the linear mapping

    t = sign * floor(|x| / 2**exponent * 2**16)     a mantissa with 16 fractional bits
    mantissa = (t + r) >> 16                        r: 16 random bits; rounded down

so a mantissa is rounded up with the probability that the fraction of ``t`` is, which is that of
``x / 2**exponent`` cut to 16 bits: ``|E[mantissa] - x / 2**exponent| < 2**-16``.
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
    magnitude = split_sign(x)[1]
    exponent = shared_exponent(magnitude, bits, None if largest is None else int(largest))
    mantissa = quantize_at(x, exponent, random).to(mantissa_dtype(bits))
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
    return mantissa_at(x, exponent, None if random is None else _drawn(x, random))


def _drawn(x: Tensor, random: RandomBits) -> Tensor:
    return random.draw(x.numel(), x.device).view(x.shape)


def mantissa_at(x: Tensor, exponent: int, drawn: Tensor | None) -> Tensor:
    """`quantize_at` with 16 random bits for each element, or to nearest where they are None."""
    negative, magnitude = split_sign(x)
    field, mantissa24 = fields(magnitude)
    shift = exponent + 150 - field.clamp(min=1)  # |x| / 2**exponent = mantissa24 / 2**shift
    if drawn is None:
        rounded = shift_right_even(mantissa24, shift)
        return torch.where(negative, -rounded, rounded)
    return shift_right_stochastic(torch.where(negative, -mantissa24, mantissa24), shift, drawn)


def dequantize(mantissa: Tensor, exponent: Tensor | int) -> Tensor:
    """As `Backend.dequantize`."""
    return to_float32(mantissa, exponent)
