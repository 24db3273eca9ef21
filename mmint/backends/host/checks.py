"""What operations refuse."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint
from ..source import Unwritten


def check_operands(x: Tensor | Unwritten, y: Tensor | Unwritten) -> None:
    """Raises ValueError if ``x`` and ``y`` are not of one shape and float32."""
    if x.shape != y.shape or x.dtype != torch.float32 or y.dtype != torch.float32:
        raise ValueError(
            f'a tensor of shape {tuple(x.shape)} and {x.dtype} and one of shape {tuple(y.shape)} '
            f'and {y.dtype} were given, two of one shape and torch.float32 are accepted: expand '
            'one, or convert it with .float()'
        )


def check_matrices(a: FixedPoint, b: FixedPoint) -> None:
    """Raises ValueError if ``a`` (..., M, K) and ``b`` do not go together in `matmul`."""
    *batch, _, k = a.mantissa.shape
    if b.mantissa.shape[:-1] != (*batch, k):
        wanted = ', '.join(map(str, (*batch, k, 'N')))
        raise ValueError(
            f'matrices of shapes {tuple(a.mantissa.shape)} and {tuple(b.mantissa.shape)} were '
            f'given, a second one of shape ({wanted}) is accepted: reshape it'
        )


def checked_count(count: int, least: int) -> int:
    """``count``, if there are statistics of so many elements.

    Raises:
        ValueError: if it is below ``least``.
    """
    if count < least:
        raise ValueError(
            f'statistics of {count} elements a group were asked for, at least {least} are '
            'accepted: use a larger batch, or larger images'
        )
    return count
