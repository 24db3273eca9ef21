"""Arguments of kernels: random bits, operands of one type, memory without gaps."""

from __future__ import annotations

import struct
from typing import overload

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits

NO_BITS = (0, 0, 0, 0, 0, 0)


def words(random: RandomBits | None) -> tuple[int, ...]:
    """Whether to round stochastically, and the name of the random bits."""
    return NO_BITS if random is None else (1, *random.words())


def pair(a: FixedPoint, b: FixedPoint) -> tuple[Tensor, Tensor, bool]:
    """Both mantissas in the wider of their dtypes, and whether that is int16."""
    left, right = a.mantissa, b.mantissa
    if left.dtype != right.dtype:
        left, right = left.to(torch.int16), right.to(torch.int16)
    return left, right, left.dtype == torch.int16


def ceiling_pattern(ceiling: float | None) -> int:
    """The pattern of float32 ``ceiling``, -1 where nothing is cut."""
    return -1 if ceiling is None else int.from_bytes(struct.pack('<f', ceiling), 'little')


@overload
def flat(parameter: Tensor) -> Tensor: ...
@overload
def flat(parameter: Tensor | None) -> Tensor | None: ...
def flat(parameter: Tensor | None) -> Tensor | None:
    """A parameter, contiguous in memory: a kernel sees its values only."""
    return None if parameter is None else parameter.detach().contiguous()
