"""Addition in integers: `mmint.backends.reference.addition`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends.magnitudes import known_magnitude
from ..numerics import FixedPoint, Role
from .derivative import first_derivative
from .fork import use
from .mapper import SUM_BITS, Mapper
from .noting import apply_noting_magnitude
from .sharing import shared
from .waiting import takes_sources


def add(x: Tensor, y: Tensor, mapper: Mapper, inplace: bool = False) -> Tensor:
    """The sum of float32 ``x`` and ``y``, whose shapes broadcast; in place, it replaces ``x``.

    The gradient of a sum is that of its operands, as it is; summed in integers, after a mapping to
    `SUM_BITS`, over the dimensions along which an operand was broadcast.
    """
    y = use(y, mapper, Role.OTHER_GRADIENT_SUM)
    x = x if inplace else use(x, mapper)
    return shared(apply_noting_magnitude(_Add, x, y, inplace, mapper), mapper, x, y)


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
        ctx.mapper, ctx.shapes = mapper, (x.shape, y.shape)
        ctx.takes_sources = x.shape == y.shape and all(
            takes_sources(operand) for operand in (x, y) if operand.requires_grad
        )
        if x.shape != y.shape:
            shape = torch.broadcast_shapes(x.shape, y.shape)
            x, y = x if x.shape == shape else x.expand(shape), y.expand(shape)
        out = mapper.add(x, y, Role.INPUT, inplace)
        if inplace:
            ctx.mark_dirty(out)
        magnitudes.append(known_magnitude(out))
        return out

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if ctx.shapes[0] == ctx.shapes[1]:
            return grad, grad, None, None, None
        mapped = replace(ctx.mapper, bits=SUM_BITS)(grad, Role.GRADIENT)
        dx, dy = (
            None if not needs
            else grad if shape == grad.shape
            else _sum_to(mapped, shape, ctx.mapper)
            for shape, needs in zip(ctx.shapes, ctx.needs_input_grad, strict=False)
        )  # fmt: skip
        return dx, dy, None, None, None


def _sum_to(grad: FixedPoint, shape: torch.Size, mapper: Mapper) -> Tensor:
    """The exact sum over the dimensions along which ``shape`` was broadcast, as float32."""
    mantissa = grad.mantissa
    padded = (1,) * (mantissa.dim() - len(shape)) + tuple(shape)
    kept = [i for i, size in enumerate(padded) if size == mantissa.shape[i]]
    summed = [i for i, size in enumerate(padded) if size != mantissa.shape[i]]
    columns = mantissa.permute(*summed, *kept).reshape(-1, math.prod(shape))
    backend = mapper.backend(mantissa)
    return backend.channel_sum(grad._replace(mantissa=columns), 1).view(shape)
