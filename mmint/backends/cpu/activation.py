"""ReLU: arguments of the kernels in exact.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ..magnitudes import remember_magnitude
from .kernels import ready


def relu(x: Tensor, inplace: bool) -> tuple[Tensor, Tensor]:
    """As `Backend.relu`."""
    source = x.contiguous()
    out = x if inplace else torch.empty_like(source)
    target = out if out.is_contiguous() else source
    positive = torch.empty((x.numel() + 7) // 8, dtype=torch.uint8)
    top = ready().relu(
        source.data_ptr(), target.data_ptr(), positive.data_ptr(), x.numel(),
        torch.get_num_threads(),
    )  # fmt: skip
    if target is not out:
        out.copy_(target)
    remember_magnitude(out, top)
    return out, positive


def relu_grad(grad: Tensor, positive: Tensor) -> Tensor:
    """As `Backend.relu_grad`."""
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    top = ready().relu_grad(
        grad.data_ptr(), out.data_ptr(), positive.data_ptr(), grad.numel(),
        torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(out, top)
    return out
