"""Windows of average pooling: fixed-point reciprocals of their divisors."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry import Windows

RECIPROCAL_BITS = 40


def reciprocals(windows: Windows, device: torch.device | str = 'cpu') -> Tensor:
    """The fixed-point reciprocal of each window's divisor, int64 (rows, columns)."""
    one = 1 << RECIPROCAL_BITS
    rounded = [[(2 * one + d) // (2 * d) for d in row] for row in windows.divisors]
    return torch.tensor(rounded, dtype=torch.int64, device=device)
