"""Additions of activations, and what is computed in float between two of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..addition import add
from ..fork import use
from ..operands import is_activation
from ..registry import Scope, integer


@integer(Tensor.add, torch.add)
def _add(
    scope: Scope,
    input: Any,
    other: Any,
    *,
    alpha: float = 1,
    out: Tensor | None = None,
    inplace: bool = False,
) -> Any:
    if not (is_activation(input) and is_activation(other)) or input.shape != other.shape:
        return NotImplemented
    if alpha != 1 or out is not None:
        return NotImplemented
    if isinstance(input, nn.Parameter) or isinstance(other, nn.Parameter):
        return NotImplemented  # it is broadcast, and so in float, unless the batch is one image
    return add(input, other, scope.mapper(), inplace)


@integer(Tensor.add_)
def _add_(scope: Scope, input: Any, other: Any, *, alpha: float = 1) -> Any:
    """``input += other``."""
    return _add(scope, input, other, alpha=alpha, inplace=True)


def _branching(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as it is, in float or exact; but a residual branch may begin at its operands."""

    def branching(scope: Scope, *args: Any, **kwargs: Any) -> Any:
        used = [use(x, scope.mapper()) if is_activation(x) else x for x in args]
        return function(*used, **kwargs)

    return branching


for _function in (F.interpolate, Tensor.mul, torch.mul, Tensor.sigmoid, torch.sigmoid):
    integer(_function)(_branching(_function))
