"""What pooling needs: sizes for max pooling, fixed-point reciprocals for average pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Pooling, Windows

RECIPROCAL_BITS = 40


def reciprocals(windows: Windows, device: torch.device | str = 'cpu') -> Tensor:
    """The fixed-point reciprocal of each window's divisor, int64 (rows, columns)."""
    one = 1 << RECIPROCAL_BITS
    rounded = [[(2 * one + d) // (2 * d) for d in row] for row in windows.divisors]
    return torch.tensor(rounded, dtype=torch.int64, device=device)


def pooled_size(size: torch.Size, pooling: Pooling) -> torch.Size:
    """The size of what max pooling makes of (N, C, H, W)."""
    kernel, stride, padding, ceil_mode = pooling
    meta = torch.empty(size, device='meta')
    return F.max_pool2d(meta, kernel, stride, padding, 1, ceil_mode).shape


def planes(size: tuple[int, ...], out_size: tuple[int, ...], pooling: Pooling) -> tuple[int, ...]:
    """Planes, their size and that of their outputs, and the windows, for kernels."""
    kernel, stride, padding, _ = pooling
    return (size[0] * size[1], *size[2:], *out_size[2:], *kernel, *stride, *padding)
