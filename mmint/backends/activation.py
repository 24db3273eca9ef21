"""The part of the contract about ReLU and ReLU6, which compare and move."""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor

from .source import Source


class Activations(Protocol):
    """ReLU, cut at a ceiling, with one bit an element for its backward pass."""

    def relu(self, x: Tensor, inplace: bool, ceiling: float = math.inf) -> tuple[Tensor, Tensor]:
        """ReLU of float32 ``x``, cut at ``ceiling``, and where its gradient passes.

        It does between 0 and the ceiling: uint8, element i in bit i % 8 of byte i / 8. NaN stays
        NaN, as in PyTorch.
        """

    def relu_passed(self, source: Source) -> Tensor:
        """Where the gradient of the ReLU passes that ``source`` ends with: as `relu`."""

    def relu_grad(self, grad: Tensor, passed: Tensor) -> Tensor:
        """Gradient of `relu` for its input: ``grad`` where it passes."""
