"""Max pooling: arguments of the kernels in exact.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry import Pooling
from ..host.pooling import planes, pooled_size
from ..magnitudes import remember_magnitude
from .kernels import ready


def max_pool2d(x: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """As `Backend.max_pool2d`."""
    x = x.contiguous()
    shape = pooled_size(x.shape, pooling)
    out = torch.empty(shape, dtype=torch.float32)
    place = torch.empty(shape, dtype=torch.uint8)
    top = ready().max_pool2d(
        x.data_ptr(), out.data_ptr(), place.data_ptr(), *planes(x.shape, shape, pooling),
        torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(out, top)
    return out, place


def max_pool2d_grad(
    grad: Tensor, place: Tensor, input_size: tuple[int, int, int, int], pooling: Pooling
) -> Tensor:
    """As `Backend.max_pool2d_grad`."""
    grad = grad.contiguous()
    out = torch.empty(input_size, dtype=torch.float32)
    top = ready().max_pool2d_grad(
        grad.data_ptr(), out.data_ptr(), place.data_ptr(), *planes(input_size, grad.shape, pooling),
        torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(out, top)
    return out
