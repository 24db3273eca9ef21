"""Elements that nobody has written, written: the definition of what readers of a source see."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics.float32 import to_float32
from ..source import Source


def elements(source: Source) -> Tensor:
    """As `Backend.elements`."""
    x = source.x.mantissa.to(torch.int64)
    planes = source.coefficients.view(-1, x.shape[1], *[1] * (x.dim() - 2), 4)
    p, q, r, exponent = planes.unbind(-1)
    total = p * x + r if source.y is None else p * x + q * source.y.mantissa + r
    made = to_float32(total, exponent.expand_as(x))
    return made if source.ceiling is None else torch.relu(made).clamp(max=source.ceiling)


def written(x: Tensor | Source) -> Tensor:
    """The elements in memory."""
    return elements(x) if isinstance(x, Source) else x
