"""ReLU and max pooling whose saved state is a bit and a byte an element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..backends import Pooling, backend_for
from ..backends.magnitudes import known_magnitude as known_top
from .function import apply_noting_top


def relu(x: Tensor, inplace: bool) -> Tensor:
    """ReLU of float32 ``x`` of any shape."""
    return apply_noting_top(_ReLU, x, inplace)


def max_pool2d(x: Tensor, pooling: Pooling) -> Tensor:
    """Max pooling of float32 ``x`` (N, C, H, W); windows of at most 256 elements."""
    return _MaxPool2d.apply(x, pooling)


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool, tops: list[int | Tensor | None]) -> Tensor:
        out, positive = backend_for(x.device).relu(x, inplace)
        if inplace:
            ctx.mark_dirty(out)
        ctx.save_for_backward(positive)
        tops.append(known_top(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (positive,) = ctx.saved_tensors
        return backend_for(grad.device).relu_grad(grad, positive), None, None


class _MaxPool2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pooling: Pooling) -> Tensor:
        out, place = backend_for(x.device).max_pool2d(x, pooling)
        ctx.save_for_backward(place)
        ctx.size, ctx.pooling = tuple(x.shape), pooling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        backend = backend_for(grad.device)
        return backend.max_pool2d_grad(grad, place, ctx.size, ctx.pooling), None
