"""ReLU whose saved state is a bit an element: exact as it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from ..backends import backend_for
from ..backends.magnitudes import known_magnitude
from .derivative import first_derivative
from .noting import apply_noting_magnitude


def relu(x: Tensor, inplace: bool) -> Tensor:
    """ReLU of float32 ``x`` of any shape."""
    return apply_noting_magnitude(_ReLU, x, inplace)


class _ReLU(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, inplace: bool, magnitudes: list[int | Tensor | None]
    ) -> Tensor:
        out, positive = backend_for(x.device).relu(x, inplace)
        if inplace:
            ctx.mark_dirty(out)
        ctx.save_for_backward(positive)
        magnitudes.append(known_magnitude(out))
        return out

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (positive,) = ctx.saved_tensors
        return backend_for(grad.device).relu_grad(grad, positive), None, None
