"""ReLU: arguments of the kernels in activation.cu."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..host.arguments import ceiling_pattern
from ..host.exponents import blocks
from ..magnitudes import remember_magnitude
from .launch import THREADS, grid_of_groups, launch, launch_noting
from .zeroed import zeros


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
    """As `Backend.relu_grad`; a norm before it asks for the largest magnitude of each channel."""
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    of_channels = (1, grad.shape[1], 1, 1) if grad.dim() == 4 else ()
    tops = zeros(of_channels, torch.int32, grad.device)
    if n := grad.numel():
        count, run = blocks(grad.shape, of_channels)
        launch(
            'activation.cu', 'relu_grad', grid_of_groups(n, count), THREADS,
            [grad, passed, out, n, count, run, tops], grad.device,
        )  # fmt: skip
    remember_magnitude(out, tops)
    return out
