"""Fixed-point tensors: integer mantissas that share one exponent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MIN_BITS, MAX_BITS = 4, 16


class FixedPoint(NamedTuple):
    """A tensor of integers that share one power-of-two scale (paper section 3.1).

    ``value = mantissa * 2**exponent`` with ``|mantissa| <= 2**(bits - 1) - 1``.

    Attributes:
        mantissa: int8 for ``bits <= 8``, int16 for ``bits <= 16``; any shape.
        exponent: int32 tensor of one element on the mantissa's device (a tensor, so that a GPU
            need not be waited for).
        bits: the width of a mantissa, sign included.
    """

    mantissa: Tensor
    exponent: Tensor
    bits: int


def check_bits(bits: int) -> int:
    """Returns ``bits`` if the number format supports it.

    Raises:
        ValueError: if ``bits`` is not an integer in 4..16.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(
            f'bits={bits!r} was given, integers from {MIN_BITS} to {MAX_BITS} are accepted: '
            "set `bits` to one of them (8 is the method's own choice)"
        )
    return bits


def mantissa_dtype(bits: int) -> torch.dtype:
    """The smallest integer dtype that holds ``bits`` bits: int8 or int16."""
    return torch.int8 if bits <= 8 else torch.int16
