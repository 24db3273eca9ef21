"""ReLU, exact as it is, that here keeps less for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.opaque import opaque
from ..ops.relu import relu


class CompactReLU(nn.ReLU):
    """`torch.nn.ReLU` that keeps one bit an element for the backward pass."""

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.ReLU`."""
        if not (x.requires_grad and torch.is_grad_enabled() and x.dtype == torch.float32):
            return super().forward(x)
        return relu(x, self.inplace)
