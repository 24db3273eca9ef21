"""Max pooling, exact as it is, that here keeps less for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..backends import Pooling
from ..ops.max_pooling import max_pool2d
from ..ops.opaque import opaque

MAX_WINDOW = 256


class CompactMaxPool2d(nn.MaxPool2d):
    """`torch.nn.MaxPool2d` that keeps one byte an output for the backward pass."""

    @opaque
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """See `torch.nn.MaxPool2d`."""
        kernel = _pair(self.kernel_size)
        stock = self.return_indices or x.dim() != 4 or kernel[0] * kernel[1] > MAX_WINDOW
        stock |= _pair(self.dilation) != (1, 1)  # a window may have no element inside the image
        if stock or not (x.requires_grad and torch.is_grad_enabled() and x.dtype == torch.float32):
            return super().forward(x)
        pooling = Pooling(kernel, _pair(self.stride), _pair(self.padding), self.ceil_mode)
        return max_pool2d(x, pooling)
