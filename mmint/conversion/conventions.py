"""What stock models mean by their tensors, where integer operations depend on it.

Importing it registers this; `mmint.ops` itself knows of no model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends.notes import note, noted
from ..ops.operands import coordinates
from ..ops.registry import Scope, integer

MOST_COORDINATES = 4


@coordinates
def is_points_or_boxes(x: Tensor) -> bool:
    """Detectors add offsets to points and boxes, whose rows are no longer than a box."""
    return x.dim() <= 3 and x.shape[-1] <= MOST_COORDINATES


@coordinates
def is_shared_points(x: Tensor) -> bool:
    """Deformable attention expands a point or box to add to it the offsets of heads and levels."""
    return 1 < x.shape[-1] <= MOST_COORDINATES and 0 in x.stride() and x.stride(-1) != 0


@integer(Tensor.__getitem__)
def query_key_or_value(scope: Scope, input: Tensor, index: Any) -> Any:
    """``qkv[0], qkv[1], qkv[2]``: their gradients are stacked, where PyTorch adds them to zeros."""
    if not isinstance(index, int) or input.dim() != 5 or len(input) != 3:
        return NotImplemented
    if not (input.requires_grad and torch.is_grad_enabled() and input._is_view()):
        return NotImplemented
    parts = noted(input, 'parts')
    if parts is None:
        parts = _Unstack.apply(input)
        note(input, 'parts', parts)
    return parts[index]


class _Unstack(Function):
    """`torch.unbind` whose results may be written in place, as those of an index may."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.data for part in x.unbind())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.stack(grads)
