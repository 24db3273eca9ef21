"""Max pooling: arguments of the kernels in max_pooling.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry import Pooling
from ..host.pooling import planes, pooled_size
from ..magnitudes import remember_magnitude
from .launch import launch_noting


def max_pool2d(x: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """As `Backend.max_pool2d`."""
    x = x.contiguous()
    shape = pooled_size(x.shape, pooling)
    out = torch.empty(shape, dtype=torch.float32, device=x.device)
    place = torch.empty(shape, dtype=torch.uint8, device=x.device)
    sizes = planes(x.shape, shape, pooling)
    remember_magnitude(
        out, launch_noting('max_pooling.cu', 'max_pool2d', out.numel(), x, out, place, sizes)
    )
    return out, place


def max_pool2d_grad(
    grad: Tensor, place: Tensor, input_size: tuple[int, int, int, int], pooling: Pooling
) -> Tensor:
    """As `Backend.max_pool2d_grad`."""
    grad = grad.contiguous()
    out = torch.empty(tuple(input_size), dtype=torch.float32, device=grad.device)
    sizes = planes(input_size, grad.shape, pooling)
    remember_magnitude(
        out,
        launch_noting('max_pooling.cu', 'max_pool2d_grad', out.numel(), grad, out, place, sizes),
    )
    return out
