"""Max pooling, exact in float32 as it is, with one byte an output for its backward pass.

PyTorch keeps the input and an int64 for each output for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Pooling


def max_pool2d(x: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """As `Backend.max_pool2d`."""
    kernel, stride, padding, ceil_mode = pooling
    out, index = F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode, return_indices=True)
    top, left = _corners(out.shape, pooling, x.device)
    row, column = index // x.shape[3] - top, index % x.shape[3] - left
    return out, (row * kernel[1] + column).to(torch.uint8)


def max_pool2d_grad(
    grad: Tensor, place: Tensor, input_size: tuple[int, int, int, int], pooling: Pooling
) -> Tensor:
    """As `Backend.max_pool2d_grad`."""
    top, left = _corners(grad.shape, pooling, grad.device)
    kernel, stride, padding, ceil_mode = pooling
    place = place.to(torch.int64)
    index = (top + place // kernel[1]) * input_size[3] + left + place % kernel[1]
    x = grad.new_empty(1).expand(input_size)  # PyTorch asks for it and reads its size only
    return torch.ops.aten.max_pool2d_with_indices_backward(
        grad, x, kernel, stride, padding, (1, 1), ceil_mode, index
    )


def _corners(size: torch.Size, pooling: Pooling, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each window's first element, which padding may put outside."""
    top, left = (
        torch.arange(size[2 + i], device=device) * pooling.stride[i] - pooling.padding[i]
        for i in (0, 1)
    )
    return top[:, None], left
