"""Operands of products as their kernels read them: in one type, lines of whole vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...numerics import FixedPoint

WORTHWHILE = 1.25  # how much wider operands may get so that 16 bytes can be copied at once


def empty(shape: tuple[int, ...], like: FixedPoint) -> Tensor:
    """Memory for a float32 result on the device of an operand."""
    return torch.empty(tuple(shape), dtype=torch.float32, device=like.mantissa.device)


def alike(a: Tensor, b: Tensor, a_width: int, b_width: int) -> tuple[Tensor, Tensor, int]:
    """Both operands in one type, and how many bytes at a time are copied; 1 for int16."""
    if torch.int16 in (a.dtype, b.dtype):
        return a.to(torch.int16), b.to(torch.int16), 1
    vectors = (16 if -(-w // 16) * 16 <= WORTHWHILE * w else 4 for w in (a_width, b_width))
    return a, b, min(vectors)


def filled(x: Tensor, groups: int, vector: int) -> Tensor:
    """``x`` (..., channels), contiguous, each group's channels a multiple of ``vector``."""
    width = x.shape[-1] // groups
    if width % vector:
        x = F.pad(x.unflatten(-1, (groups, width)), (0, -width % vector)).flatten(-2)
    x = x.contiguous()
    return x.clone() if x.data_ptr() % vector else x


def lines(x: Tensor, vector: int) -> Tensor:
    """``x`` (batch, lines, length) with lines that begin and end at multiples of ``vector``."""
    *steps, step = x.stride()
    ragged = any(n % vector for n in (x.shape[2], *steps, x.data_ptr() // x.element_size()))
    return filled(x, 1, vector) if ragged or step != 1 else x
