"""What the autograd functions of all products share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..backends import NonFiniteError
from ..numerics import FixedPoint, Role
from .mapper import Mapper


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
    try:
        return product(bias=bias.detach(), random=mapper.random(Role.BIAS))
    except NonFiniteError:
        raise mapper.not_finite(Role.BIAS) from None
