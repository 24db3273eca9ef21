"""ReLU and max pooling: arguments of the kernels in exact.c."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Pooling
from ..magnitudes import remember_magnitude
from .kernels import ready


def relu(x: Tensor, inplace: bool) -> tuple[Tensor, Tensor]:
    """As `mmint.backends.reference.relu`."""
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
    """As `mmint.backends.reference.relu_grad`."""
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    top = ready().relu_grad(
        grad.data_ptr(), out.data_ptr(), positive.data_ptr(), grad.numel(),
        torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(out, top)
    return out


def max_pool2d(x: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """As `mmint.backends.reference.max_pool2d`."""
    x = x.contiguous()
    kernel, stride, padding, ceil_mode = pooling
    meta = torch.empty(x.shape, device='meta')
    shape = F.max_pool2d(meta, kernel, stride, padding, 1, ceil_mode).shape
    out = torch.empty(shape, dtype=torch.float32)
    place = torch.empty(shape, dtype=torch.uint8)
    top = ready().max_pool2d(
        x.data_ptr(), out.data_ptr(), place.data_ptr(), *_planes(x.shape, out.shape, pooling)
    )
    remember_magnitude(out, top)
    return out, place


def max_pool2d_grad(
    grad: Tensor, place: Tensor, input_size: tuple[int, int, int, int], pooling: Pooling
) -> Tensor:
    """As `mmint.backends.reference.max_pool2d_grad`."""
    grad = grad.contiguous()
    out = torch.empty(input_size, dtype=torch.float32)
    top = ready().max_pool2d_grad(
        grad.data_ptr(), out.data_ptr(), place.data_ptr(), *_planes(input_size, grad.shape, pooling)
    )
    remember_magnitude(out, top)
    return out


def _planes(size: tuple[int, ...], out_size: tuple[int, ...], pooling: Pooling) -> tuple[int, ...]:
    kernel, stride, padding, _ = pooling
    threads = torch.get_num_threads()
    return (
        size[0] * size[1], *size[2:], *out_size[2:], *kernel, *stride, *padding, threads
    )  # fmt: skip
