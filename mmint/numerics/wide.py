"""Numbers of a norm's group: 31-bit integers, each with an exponent of its own.

A `Wide` is ``mantissa * 2**exponent`` with ``2**30 <= |mantissa| < 2**31``, or mantissa 0, whose
exponent means nothing. Every operation below works on int64 alone and rounds its exact result to
31 bits (nearest, ties to even) unless it says otherwise, so its relative error is at most 2**-31,
half a unit of the smallest mantissa.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .float32 import NOT_FINITE, NonFiniteError, fields, split_sign, to_float32
from .integers import bit_length, divide_even, shift_right_even

WIDTH = 31
LOWEST = -(2**20)  # below any exponent


@dataclass(frozen=True)
class Wide:
    """Int64 tensors of one shape."""

    mantissa: Tensor
    exponent: Tensor

    def shifted(self, power: Tensor | int) -> Wide:
        """``self * 2**power``, exact."""
        return Wide(self.mantissa, self.exponent + power)

    def __neg__(self) -> Wide:
        return Wide(-self.mantissa, self.exponent)

    def view(self, shape: Sequence[int]) -> Wide:
        """As `torch.Tensor.view`."""
        return Wide(self.mantissa.view(shape), self.exponent.view(shape))

    def __getitem__(self, index: Any) -> Wide:
        return Wide(self.mantissa[index], self.exponent[index])


def narrow(integer: Tensor, exponent: Tensor | int) -> Wide:
    """``integer * 2**exponent`` of int64 integers below 2**62, rounded to 31 bits."""
    magnitude = integer.abs()
    shift = bit_length(magnitude) - WIDTH
    rounded = shift_right_even(magnitude, shift)
    carried = rounded >> WIDTH  # rounding up may give 2**31
    return Wide(integer.sign() * (rounded >> carried), exponent + shift + carried)


def from_float(x: Tensor) -> Wide:
    """Float32 ``x``, exact.

    Raises:
        NonFiniteError: if an element is infinite or not a number.
    """
    negative, magnitude = split_sign(x)
    field, mantissa24 = fields(magnitude)
    if (field == NOT_FINITE).any():
        raise NonFiniteError
    return narrow(torch.where(negative, -mantissa24, mantissa24), field.clamp(min=1) - 150)


def from_number(value: float, device: torch.device) -> Wide:
    """A Python number, without dimensions."""
    fraction, exponent = math.frexp(value)
    return from_integers([round(math.ldexp(fraction, 53))], device).shifted(exponent - 53)[0]


@functools.lru_cache(maxsize=64)
def number(value: float) -> tuple[int, int]:
    """`from_number` as (mantissa, exponent), for kernels."""
    wide = from_number(value, torch.device('cpu'))
    return int(wide.mantissa), int(wide.exponent)


def from_integers(values: Sequence[int], device: torch.device) -> Wide:
    """Python integers of any size (below 2**127 in kernels), one dimension."""
    mantissas, exponents = [], []
    for value in values:
        shift = abs(value).bit_length() - WIDTH
        rounded = divide_even(abs(value), 1 << shift) if shift > 0 else abs(value) << -shift
        carried = rounded >> WIDTH
        mantissas.append((rounded >> carried) * (-1 if value < 0 else 1))
        exponents.append(shift + carried)
    return Wide(
        *(torch.tensor(v, dtype=torch.int64, device=device) for v in (mantissas, exponents))
    )


def multiply(a: Wide, b: Wide) -> Wide:
    """``a * b``, element by element, broadcast as tensors are."""
    return narrow(a.mantissa * b.mantissa, a.exponent + b.exponent)


def add(a: Wide, b: Wide) -> Wide:
    """``a + b``: the higher one moves left by 30 bits, and the other to the exponent it then has.

    That is exact unless the exponents differ by more than 30; then the lower one is first rounded,
    to nearest even, by at most 2**-61 of the higher. The sum stays below 2**62.
    """
    exponents = [torch.where(x.mantissa == 0, LOWEST, x.exponent) for x in (a, b)]
    common = torch.maximum(*exponents) - 30
    return narrow(to_integers(a, common) + to_integers(b, common), common)


def divide(a: Wide, b: Wide) -> Wide:
    """``a / b`` for ``b > 0``; the relative error is at most 2**-30.

    The quotient of ``|a| * 2**32``, below 2**63, is at least 2**31; it is cut off, which is at most
    2**-31 of it, and then rounded to 31 bits.
    """
    quotient = (a.mantissa.abs() << 32) // b.mantissa
    return narrow(a.mantissa.sign() * quotient, a.exponent - b.exponent - 32)


def rsqrt(a: Wide) -> Wide:
    """``1 / sqrt(a)`` for ``a > 0``; the relative error is at most 2**-30.

    With ``a = d * 2**(2 k)``, ``2**60 <= d < 2**62``, and q the integer square root of d, the
    mantissa is ``R = 2**61 // q``. Since ``q <= sqrt(d) < q + 1`` and ``q >= 2**30``, the quotient
    2**61 / q exceeds ``2**61 / sqrt(d)`` by a factor of at most ``1 + 2**-30``, and cutting it off
    takes less than 1 from a number that is at least ``2**61 / sqrt(d) > 2**30``.
    """
    odd = (a.exponent - 31) & 1
    d = a.mantissa << (31 - odd)
    half = (a.exponent - 31 + odd) >> 1
    return narrow((1 << 61) // square_root(d), -61 - half)


def square_root(d: Tensor) -> Tensor:
    """The largest integer whose square is at most ``d``, int64 in [2**60, 2**62).

    Newton's iteration ``(x + d / x) / 2`` never falls below it. From 2**31, at most 2**30 too
    high, an error e becomes at most ``e**2 / 2**31``: 2**29, 2**27, 2**23, 2**15, 1/2, and the
    last step takes off what may be left.
    """
    root = torch.full_like(d, 1 << 31)
    for _ in range(5):
        root = (root + d // root) >> 1
    return root - (root * root > d).to(torch.int64)


def top_exponent(a: Wide, bits: int) -> Tensor:
    """The lowest exponent at which each integer is below ``2**bits``, `LOWEST` for zero.

    Rounding to that exponent may give ``2**bits`` itself.
    """
    return torch.where(a.mantissa == 0, LOWEST, a.exponent + WIDTH - bits)


def to_integers(a: Wide, exponent: Tensor) -> Tensor:
    """``a / 2**exponent`` as int64, to nearest even; the caller sees to it that it fits."""
    shift = torch.where(a.mantissa == 0, 0, exponent - a.exponent)
    return a.mantissa.sign() * shift_right_even(a.mantissa.abs(), shift)


def to_float(a: Wide) -> Tensor:
    """The nearest float32; infinite where there is none."""
    return to_float32(a.mantissa, a.exponent)
