"""What operands of a PyTorch function have to be for the function to become integer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
