"""Fixed-point tensors: integer mantissas that share exponents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MIN_BITS, MAX_BITS = 4, 16
# One exponent for each index of the axes over which an operation never sums, or one a tensor.
EXPONENTS = FREE, ONE_A_TENSOR = 'free', 'tensor'
# Of zeros among several blocks that have exponents of their own: below any other, so that nothing
# that is added to their products is rounded to it.
ZEROS_EXPONENT = -512


class FixedPoint(NamedTuple):
    """A tensor of integers that share power-of-two scales (paper section 3.1).

    ``value = mantissa * 2**exponent`` with ``|mantissa| <= 2**(bits - 1) - 1``.

    Attributes:
        mantissa: int8 for ``bits <= 8``, int16 for ``bits <= 16``; any shape.
        exponent: int32 on the mantissa's device (a tensor, so that a GPU need not be waited for):
            without dimensions where all mantissas share it, else with as many as the mantissa. Its
            size along an axis divides the mantissa's, and so many neighbours share one: of images
            (N, C, H, W), (1, C, 1, 1) is an exponent a channel, (N, G, 1, 1) one for each image and
            group of channels.
        bits: the width of a mantissa, sign included.
    """

    mantissa: Tensor
    exponent: Tensor
    bits: int

    def exponents(self) -> Tensor:
        """Each mantissa's exponent, int64, of a shape that broadcasts to the mantissa's."""
        exponent = self.exponent.to(torch.int64)
        for axis, size in enumerate(exponent.shape):
            if size > 1:
                exponent = exponent.repeat_interleave(self.mantissa.shape[axis] // size, axis)
        return exponent


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


def check_exponents(exponents: str) -> str:
    """Returns ``exponents`` if it says how mantissas share them.

    Raises:
        ValueError: if it is neither ``'free'`` nor ``'tensor'``.
    """
    if exponents not in EXPONENTS:
        raise ValueError(
            f"exponents={exponents!r} was given, 'free' (one wherever that costs nothing) and "
            "'tensor' (one a tensor) are accepted: set `exponents` to one of them"
        )
    return exponents


def mantissa_dtype(bits: int) -> torch.dtype:
    """The smallest integer dtype that holds ``bits`` bits: int8 or int16."""
    return torch.int8 if bits <= 8 else torch.int16
