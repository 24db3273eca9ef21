"""ReLU and ReLU6, exact in float32 as they are, with one bit an element for its backward pass.

PyTorch keeps the output for it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..source import Source
from .source import elements, kept


def relu(x: Tensor, inplace: bool, ceiling: float = math.inf) -> tuple[Tensor, Tensor]:
    """As `Backend.relu`."""
    passed = _passed(x, ceiling)
    made = torch.relu_(x) if inplace else torch.relu(x)
    return made.clamp_(max=ceiling), passed


def relu_passed(source: Source) -> Tensor:
    """As `Backend.relu_passed`."""
    assert source.ceiling is not None
    return _passed(elements(source._replace(ceiling=None)), source.ceiling)


def _passed(x: Tensor, ceiling: float) -> Tensor:
    passed = ((x > 0) & ~(x >= ceiling)).flatten()
    bits = F.pad(passed, (0, -len(passed) % 8)).view(-1, 8).to(torch.uint8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=x.device)
    return (bits * weights).sum(1, dtype=torch.uint8)


def relu_grad(grad: Tensor, passed: Tensor) -> Tensor:
    """As `Backend.relu_grad`."""
    return kept(grad, passed)
