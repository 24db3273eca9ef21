"""Addition in integers: `mmint.backends.reference.addition`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..backends.errors import naming
from ..backends.magnitudes import known_magnitude as known_top
from ..numerics import Role
from .fork import use
from .function import SUM_BITS, apply_noting_top
from .mapper import Mapper


def add(x: Tensor, y: Tensor, mapper: Mapper, inplace: bool = False) -> Tensor:
    """The sum of float32 ``x`` and ``y``, of one shape; in place, it replaces ``x``.

    The gradient of a sum is that of its operands, as it is.
    """
    y = use(y, mapper, Role.OTHER_GRADIENT_SUM)
    return apply_noting_top(_Add, x if inplace else use(x, mapper), y, inplace, mapper)


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, inplace: bool, mapper: Mapper, tops: list[Any]
    ) -> Tensor:
        random = mapper.random(Role.INPUT)
        with naming(lambda: mapper.not_finite(Role.INPUT)):
            out = mapper.backend(x).add(x, y, SUM_BITS, random, inplace)
        if inplace:
            ctx.mark_dirty(out)
        tops.append(known_top(out))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        return grad, grad, None, None, None
