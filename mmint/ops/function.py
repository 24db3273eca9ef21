"""What the autograd functions share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends.errors import naming
from ..backends.magnitudes import remember_magnitude as remember_top
from ..numerics import FixedPoint, Role
from .mapper import Mapper

# Of additions: they keep nothing for a backward pass, so that wide mantissas cost no memory.
SUM_BITS = 16


def save(ctx: Any, *tensors: FixedPoint) -> None:
    """Saves fixed-point tensors for the backward pass: their mantissas, a quarter of float32."""
    ctx.save_for_backward(*[t for fixed in tensors for t in (fixed.mantissa, fixed.exponent)])
    ctx.bits = [fixed.bits for fixed in tensors]


def restore(ctx: Any) -> list[FixedPoint]:
    """The tensors that `save` saved."""
    tensors = ctx.saved_tensors
    return [FixedPoint(tensors[2 * i], tensors[2 * i + 1], b) for i, b in enumerate(ctx.bits)]


def add_bias(product: Callable[..., Tensor], bias: Tensor | None, mapper: Mapper) -> Tensor:
    """Calls ``product``, with the bias and its random bits where there is one."""
    if bias is None:
        return product()
    if bias.dtype != torch.float32:
        raise TypeError(
            f'{mapper.site.name} was given a bias of {bias.dtype}, torch.float32 is accepted: '
            'convert the model with .float()'
        )
    with naming(lambda: mapper.not_finite(Role.BIAS)):
        return product(bias=bias.detach(), random=mapper.random(Role.BIAS))


def apply_noting_top(function: type[Function], *args: Any) -> Tensor:
    """``function.apply(*args, tops)``, to whose ``tops`` its forward appends its result's maximum.

    It is remembered anew, since autograd counts a change in place after the kernel's.
    """
    tops: list[int | Tensor | None] = []
    out = function.apply(*args, tops)
    if tops[0] is not None:
        remember_top(out, tops[0])
    return out


def map_planes(
    x: Tensor, role: Role, mapper: Mapper, top: int | Tensor | None = None
) -> FixedPoint:
    """Maps ``x`` (N, C, ...), laid out in memory as the backend's norms and pooling read it.

    That is plane after plane, or channels-last where the backend says so by ``planes_last``.
    """
    planes = x if x.dim() == 2 else x.flatten(2)
    if planes.dim() == 3 and mapper.backend(x).planes_last:
        planes = planes.unsqueeze(3)  # an image, which backends keep channels-last
    mapped = mapper(planes, role, top)
    return mapped._replace(mantissa=mapped.mantissa.view(x.shape))
