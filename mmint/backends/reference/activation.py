"""ReLU, exact in float32 as it is, with one bit an element for its backward pass.

PyTorch keeps the output for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def relu(x: Tensor, inplace: bool) -> tuple[Tensor, Tensor]:
    """As `Backend.relu`."""
    positive = (x > 0).flatten()
    bits = F.pad(positive, (0, -len(positive) % 8)).view(-1, 8).to(torch.uint8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=x.device)
    return torch.relu_(x) if inplace else torch.relu(x), (bits * weights).sum(1, dtype=torch.uint8)


def relu_grad(grad: Tensor, positive: Tensor) -> Tensor:
    """As `Backend.relu_grad`."""
    shifts = torch.arange(8, dtype=torch.uint8, device=grad.device)
    kept = (positive[:, None] >> shifts & 1).flatten()[: grad.numel()].view(grad.shape)
    return torch.where(kept.bool(), grad, 0)
