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

from ...numerics import FixedPoint, RandomBits, mantissa_dtype
from ..errors import NonFiniteError

FRACTION_BITS = 16


def check(device: torch.device) -> None:
    """Raises what calls on ``device`` have not raised yet: nothing, for here they raise at once."""


def quantize(
    x: Tensor, bits: int, random: RandomBits | None, largest: int | Tensor | None = None
) -> FixedPoint:
    """Linear fixed-point mapping of a float32 tensor.

    Args:
        x: float32, any shape.
        bits: width of a mantissa, 4..16.
        random: the name of the random bits for stochastic rounding, or None to round to nearest,
            ties to even.
        largest: the bit pattern of a magnitude that none in ``x`` exceeds, where tensors are to
            share an exponent, an int or an int32 tensor of one element; the largest magnitude of
            ``x`` unless given.

    Raises:
        NonFiniteError: if an element is infinite or not a number.
    """
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
    if field == 255:
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


def split_sign(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sign (bool) and magnitude (int64 bit pattern without sign) of a float32 tensor."""
    pattern = x.contiguous().view(torch.int32).to(torch.int64)
    return pattern < 0, pattern & 0x7FFFFFFF


def fields(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Exponent field and 24-bit mantissa of bit patterns; subnormals have no hidden bit."""
    field = magnitude >> 23
    return field, (magnitude & 0x7FFFFF) | (field.clamp(max=1) << 23)


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


def shift_right_stochastic(magnitude: Tensor, shift: Tensor, drawn: Tensor) -> Tensor:
    """``magnitude / 2**shift`` for int64 ``magnitude >= 0``, rounded stochastically.

    ``drawn`` holds 16 random bits for each element. Negative shifts go left; the caller sees to it
    that the result fits.
    """
    cut = shift - FRACTION_BITS
    fine = torch.where(
        cut >= 0,
        torch.where(cut < 63, magnitude >> cut.clamp(0, 62), 0),
        magnitude << (-cut).clamp(0, FRACTION_BITS),
    )
    rounded = (fine + drawn) >> FRACTION_BITS
    return torch.where(shift > 0, rounded, magnitude << (-shift).clamp(min=0))


def dequantize(mantissa: Tensor, exponent: Tensor | int) -> Tensor:
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
    pattern = torch.where(pattern >= 255 << 23, 255 << 23, pattern)
    pattern = torch.where(magnitude == 0, 0, pattern)
    pattern = torch.where(mantissa < 0, pattern - 2**31, pattern)
    return pattern.to(torch.int32).view(torch.float32)


def bit_length(magnitude: Tensor) -> Tensor:
    """Number of significant bits of int64 ``magnitude >= 0``: 63 less the leading zeros."""
    length = torch.zeros_like(magnitude)
    for step in (32, 16, 8, 4, 2, 1):
        longer = magnitude >= 1 << step
        magnitude = torch.where(longer, magnitude >> step, magnitude)
        length += step * longer
    return length + magnitude.clamp(max=1)
