"""Exponents that several mantissas share, as kernels are told which is whose."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from ...numerics import FixedPoint


class Blocks(NamedTuple):
    """Element i of a tensor, in row-major order, has exponent ``i // run % exponents``."""

    exponents: int
    run: int


def blocks(size: tuple[int, ...], exponents: tuple[int, ...]) -> Blocks:
    """Where in a tensor of ``size`` each of ``exponents`` (a shape) counts."""
    count = math.prod(exponents)
    last = max((axis for axis, e in enumerate(exponents) if e > 1), default=None)
    if last is None:
        return Blocks(count, math.prod(size))
    return Blocks(count, size[last] // exponents[last] * math.prod(size[last + 1 :]))


def by_group(x: FixedPoint) -> tuple[Tensor, int]:
    """The exponents of ``x``, and how far each group's is from the one before: 0 if it is one."""
    return x.exponent.contiguous(), int(x.exponent.numel() > 1)
