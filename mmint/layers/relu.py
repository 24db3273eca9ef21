"""ReLU and ReLU6, exact as they are, that here keep less for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.deferred import is_source
from ..ops.opaque import opaque
from ..ops.relu import relu


class CompactReLU(nn.ReLU):
    """`torch.nn.ReLU` that keeps one bit an element for the backward pass."""

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.ReLU`."""
        return relu(x, self.inplace) if _is_ours(x) else super().forward(x)


class CompactReLU6(nn.ReLU6):
    """`torch.nn.ReLU6` that keeps one bit an element for the backward pass."""

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.ReLU6`."""
        return relu(x, self.inplace, self.max_val) if _is_ours(x) else super().forward(x)


def _is_ours(x: Tensor) -> bool:
    has_gradient = x.requires_grad and torch.is_grad_enabled() and x.dtype == torch.float32
    return has_gradient or is_source(x)
