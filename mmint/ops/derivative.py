"""Backward passes that have no derivative themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def first_derivative(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Of a `torch.autograd.Function`, a ``backward`` that nobody may differentiate.

    PyTorch's `once_differentiable` complains only where the incoming gradient has a derivative
    too; else the second derivative of an integer operation would be missing without a word.

    It is not `opaque`: saved tensors may have to be recomputed first, by a part of the model.
    """

    @torch.compiler.disable
    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():
            mapper = getattr(ctx, 'mapper', None)
            raise RuntimeError(
                f'{"an integer operation" if mapper is None else mapper.site.name} was given a '
                'backward pass with create_graph=True, one without is accepted, since integers '
                'have first derivatives only: exclude the modules whose second ones are needed'
            )
        return backward(ctx, *grads)

    return checked
