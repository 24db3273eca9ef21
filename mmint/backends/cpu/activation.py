"""ReLU: arguments of the kernels in activation.c."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..host.arguments import ceiling_pattern
from ..magnitudes import remember_magnitude
from .library import ready


def relu(x: Tensor, inplace: bool, ceiling: float = math.inf) -> tuple[Tensor, Tensor]:
    """As `Backend.relu`."""
    source = x.contiguous()
    out = x if inplace else torch.empty_like(source)
    target = out if out.is_contiguous() else source
    passed = torch.empty((x.numel() + 7) // 8, dtype=torch.uint8)
    top = ready().relu(
        x=source, out=target, passed=passed, n=x.numel(), ceiling=ceiling_pattern(ceiling),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    if target is not out:
        out.copy_(target)
    remember_magnitude(out, top)
    return out, passed


def relu_grad(grad: Tensor, passed: Tensor) -> Tensor:
    """As `Backend.relu_grad`."""
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    top = ready().relu_grad(
        x=grad, out=out, passed=passed, n=grad.numel(), ceiling=0,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(out, top)
    return out
