"""Elements that nobody has written, written: the definition of what readers of a source see."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics.float32 import to_float32
from ..source import Masked, Unwritten


def elements(source: Unwritten) -> Tensor:
    """As `Backend.elements`."""
    if isinstance(source, Masked):
        return kept(source.x, source.passed)
    x = source.x.mantissa.to(torch.int64)
    planes = source.coefficients.view(-1, x.shape[1], *[1] * (x.dim() - 2), 4)
    p, q, r, exponent = planes.unbind(-1)
    total = p * x + r if source.y is None else p * x + q * source.y.mantissa + r
    made = to_float32(total, exponent.expand_as(x))
    return made if source.ceiling is None else torch.relu(made).clamp(max=source.ceiling)


def kept(x: Tensor, passed: Tensor) -> Tensor:
    """``x``, 0 where its bit of ``passed`` is."""
    shifts = torch.arange(8, dtype=torch.uint8, device=x.device)
    bits = (passed[:, None] >> shifts & 1).flatten()[: x.numel()].view(x.shape)
    return torch.where(bits.bool(), x, 0)


def written(x: Tensor | Unwritten) -> Tensor:
    """The elements in memory."""
    return x if isinstance(x, Tensor) else elements(x)
