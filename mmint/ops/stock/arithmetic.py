"""Additions of activations, and what is computed in float between two of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..addition import add
from ..fork import use
from ..operands import are_addends, is_activation
from ..registry import Scope, integer


@integer(Tensor.add, torch.add)
def sum_of(
    scope: Scope,
    input: Any,
    other: Any,
    *,
    alpha: float = 1,
    out: Tensor | None = None,
    inplace: bool = False,
) -> Any:
    """``input + other``, whose shapes may broadcast."""
    if alpha != 1 or out is not None or not are_addends(input, other):
        return NotImplemented
    if inplace and other.shape != input.shape:
        if torch.broadcast_shapes(input.shape, other.shape) != input.shape:
            return NotImplemented
    return add(input, other, scope.mapper(), inplace)


@integer(Tensor.add_)
def _add_(scope: Scope, input: Any, other: Any, *, alpha: float = 1) -> Any:
    """``input += other``."""
    return sum_of(scope, input, other, alpha=alpha, inplace=True)


def branching(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as it is, in float or exact; but a residual branch may begin at its operands."""

    def used_by(scope: Scope, *args: Any, **kwargs: Any) -> Any:
        used = [use(x, scope.mapper()) if is_activation(x) else x for x in args]
        return function(*used, **kwargs)

    return used_by


for _function in (
    *(torch.norm, Tensor.norm, Tensor.sigmoid, torch.sigmoid),
    *(Tensor.mul, torch.mul, Tensor.div, torch.div),
):
    integer(_function)(branching(_function))


@integer(F.normalize)
def _normalize(
    scope: Scope,
    input: Any,
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
    out: Tensor | None = None,
) -> Any:
    """In float, but its two gradients meet in integers."""
    if not is_activation(input) or out is not None:
        return NotImplemented
    size = use(input, scope.mapper()).norm(p, dim, keepdim=True).clamp_min(eps)
    return use(input, scope.mapper()) / size.expand_as(input)
