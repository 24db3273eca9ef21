"""float32 to integers and back: paper sections 3.1 and 3.2.

Shifts, masks and integer comparisons on bit patterns only. In the linear mapping

    t = sign * floor(|x| / 2**exponent * 2**16)     a mantissa with 16 fractional bits
    mantissa = (t + r) >> 16                        r: 16 random bits; rounded down

so a mantissa is rounded up with the probability that the fraction of ``t`` is, which is that of
``x / 2**exponent`` cut to 16 bits: ``|E[mantissa] - x / 2**exponent| < 2**-16``. The exponent is
that of all elements, or of the block (`FixedPoint.exponent`) in which the element lies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint, NonFiniteError, RandomBits, mantissa_dtype
from ...numerics.fixed_point import ZEROS_EXPONENT
from ...numerics.float32 import NOT_FINITE, fields, split_sign, to_float32
from ...numerics.integers import shift_right_even, shift_right_stochastic
from ..source import Unwritten
from .source import written


def quantize(
    x: Tensor | Unwritten,
    bits: int,
    random: RandomBits | None,
    largest: int | Tensor | None = None,
    exponents: tuple[int, ...] = (),
) -> FixedPoint:
    """As `Backend.quantize`."""
    x = written(x)
    if largest is None:
        largest = largest_of(split_sign(x)[1], exponents)
    exponent = exponent_of(torch.as_tensor(largest, device=x.device).view(exponents), bits)
    mapped = FixedPoint(x, exponent.to(torch.int32), bits)
    mantissa = quantize_at(x, mapped.exponents(), random)
    return mapped._replace(mantissa=mantissa.to(mantissa_dtype(bits)))


def largest_of(magnitude: Tensor, exponents: tuple[int, ...]) -> Tensor:
    """The largest magnitude (bit patterns) in each block that shares an exponent."""
    if not magnitude.numel():
        return magnitude.new_zeros(exponents)
    if not exponents:
        return magnitude.max()
    blocks = [n for size, e in zip(magnitude.shape, exponents, strict=True) for n in (e, size // e)]
    return magnitude.view(blocks).amax(list(range(1, len(blocks), 2)))


def exponent_of(largest: Tensor, bits: int) -> Tensor:
    """The exponent at which magnitudes (bit patterns) up to ``largest`` fit, rounded either way.

    Raises:
        NonFiniteError: if one is infinite or not a number.
    """
    p = bits - 1
    field, mantissa24 = fields(largest.to(torch.int64))
    if (field == NOT_FINITE).any():
        raise NonFiniteError
    scale = field.clamp(min=1) + (mantissa24 > ((1 << p) - 1) << (24 - p))
    of_zeros = ZEROS_EXPONENT if largest.numel() > 1 else 0
    return torch.where(largest == 0, of_zeros, scale - 126 - p)


def shared_exponent(magnitude: Tensor, bits: int) -> int:
    """The exponent at which all magnitudes (bit patterns) fit."""
    return int(exponent_of(largest_of(magnitude, ()), bits))


def quantize_at(x: Tensor, exponent: Tensor | int, random: RandomBits | None) -> Tensor:
    """Integers ``x / 2**exponent``, rounded, as int64; the caller sees to it that they fit."""
    return mantissa_at(x, exponent, None if random is None else _drawn(x, random))


def _drawn(x: Tensor, random: RandomBits) -> Tensor:
    return random.draw(x.numel(), x.device).view(x.shape)


def mantissa_at(x: Tensor, exponent: Tensor | int, drawn: Tensor | None) -> Tensor:
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
