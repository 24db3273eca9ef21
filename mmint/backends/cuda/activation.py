"""ReLU: arguments of the kernels in activation.cu."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..host.arguments import ceiling_pattern
from ..magnitudes import remember_magnitude
from .launch import launch_noting


def relu(x: Tensor, inplace: bool, ceiling: float = math.inf) -> tuple[Tensor, Tensor]:
    """As `Backend.relu`."""
    source = x.contiguous()
    out = source if inplace else torch.empty_like(source)
    passed = torch.empty((x.numel() + 7) // 8, dtype=torch.uint8, device=x.device)
    n = x.numel()
    magnitude = launch_noting(
        'activation.cu', 'relu', n, source, out, passed, n, ceiling_pattern(ceiling)
    )
    if inplace:
        out = x if source is x else x.copy_(source)
    remember_magnitude(out, magnitude)
    return out, passed


def relu_grad(grad: Tensor, passed: Tensor) -> Tensor:
    """As `Backend.relu_grad`."""
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    n = grad.numel()
    remember_magnitude(out, launch_noting('activation.cu', 'relu_grad', n, grad, passed, out, n))
    return out
