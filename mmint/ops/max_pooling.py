"""Max pooling whose saved state is a byte an output: exact as it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from ..backends import Pooling, backend_for
from .deferred import written
from .derivative import first_derivative


def max_pool2d(x: Tensor, pooling: Pooling) -> Tensor:
    """Max pooling of float32 ``x`` (N, C, H, W); windows of at most 256 elements."""
    return _MaxPool2d.apply(x, pooling)


class _MaxPool2d(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pooling: Pooling) -> Tensor:
        out, place = backend_for(x.device).max_pool2d(written(x), pooling)
        ctx.save_for_backward(place)
        ctx.size, ctx.pooling = tuple(x.shape), pooling
        return out

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        backend = backend_for(grad.device)
        return backend.max_pool2d_grad(grad, place, ctx.size, ctx.pooling), None
