"""Layers that are exact as they are and here keep less for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..backends import Pooling
from ..ops import exact

MAX_WINDOW = 256


class CompactReLU(nn.ReLU):
    """`torch.nn.ReLU` that keeps one bit an element for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.ReLU`."""
        if not (x.requires_grad and torch.is_grad_enabled() and x.dtype == torch.float32):
            return super().forward(x)
        return exact.relu(x, self.inplace)


class CompactMaxPool2d(nn.MaxPool2d):
    """`torch.nn.MaxPool2d` that keeps one byte an output for the backward pass."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """See `torch.nn.MaxPool2d`."""
        kernel = _pair(self.kernel_size)
        stock = self.return_indices or x.dim() != 4 or kernel[0] * kernel[1] > MAX_WINDOW
        if stock or not (x.requires_grad and x.dtype == torch.float32):
            return super().forward(x)
        others = (_pair(value) for value in (self.stride, self.padding, self.dilation))
        return exact.max_pool2d(x, Pooling(kernel, *others, self.ceil_mode))
