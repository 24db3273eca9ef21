"""Addition in integers: `mmint.backends.reference.addition`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from ..backends.magnitudes import known_magnitude
from ..numerics import Role
from .derivative import first_derivative
from .fork import use
from .mapper import Mapper
from .noting import apply_noting_magnitude


def add(x: Tensor, y: Tensor, mapper: Mapper, inplace: bool = False) -> Tensor:
    """The sum of float32 ``x`` and ``y``, of one shape; in place, it replaces ``x``.

    The gradient of a sum is that of its operands, as it is.
    """
    y = use(y, mapper, Role.OTHER_GRADIENT_SUM)
    return apply_noting_magnitude(_Add, x if inplace else use(x, mapper), y, inplace, mapper)


class _Add(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        inplace: bool,
        mapper: Mapper,
        magnitudes: list[int | Tensor | None],
    ) -> Tensor:
        out = mapper.add(x, y, Role.INPUT, inplace)
        if inplace:
            ctx.mark_dirty(out)
        magnitudes.append(known_magnitude(out))
        return out

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        return grad, grad, None, None, None
