"""What operands of a PyTorch function have to be for the function to become integer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .run import current_run

Test = Callable[[Tensor], bool]
_COORDINATES: list[Test] = []


def coordinates(test: Test) -> Test:
    """Registers how to tell points and boxes from activations; they are computed in float."""
    _COORDINATES.append(test)
    return test


def is_empty(*tensors: Tensor) -> bool:
    """Whether there is nothing to compute, and PyTorch may find the shape of that."""
    return any(t.numel() == 0 for t in tensors)


def is_float(*tensors: Any) -> bool:
    """Whether all are float32 tensors."""
    return all(isinstance(t, Tensor) and t.dtype == torch.float32 for t in tensors)


def is_activation(x: Any) -> bool:
    """Whether ``x`` is float32, no vector, and no coordinates."""
    return is_float(x) and x.dim() >= 2 and not any(test(x) for test in _COORDINATES)


def are_addends(x: Any, y: Any) -> bool:
    """Whether ``x + y`` is a sum of activations.

    What is broadcast has to be learnt, else it is taken for a mask, which may hold infinities, or a
    constant: it is a parameter or a view of one, or has a gradient. So in evaluation, and in both
    runs of what is recomputed, what was computed from parameters and is broadcast stays in float.
    """
    if not is_float(x, y):
        return False
    if x.shape == y.shape:
        return is_activation(x) and is_activation(y)
    try:
        shape = torch.broadcast_shapes(x.shape, y.shape)
    except RuntimeError:  # PyTorch's addition says it better
        return False
    return all(
        is_activation(t.expand(shape)) and (t.shape == shape or _may_be_broadcast(t))
        for t in (x, y)
    )


def _may_be_broadcast(x: Tensor) -> bool:
    if x.numel() < 2:
        return False
    has_gradient = x.requires_grad and not current_run.runs_twice()
    return has_gradient or isinstance(x, nn.Parameter) or isinstance(x._base, nn.Parameter)
