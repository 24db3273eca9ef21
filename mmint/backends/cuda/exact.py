"""ReLU and max pooling: arguments of the kernels in exact.cu."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Pooling
from ..magnitudes import remember_magnitude
from .launcher import Argument
from .mapping import THREADS, run


def relu(x: Tensor, inplace: bool) -> tuple[Tensor, Tensor]:
    """As `mmint.backends.reference.relu`."""
    source = x.contiguous()
    out = source if inplace else torch.empty_like(source)
    positive = torch.empty((x.numel() + 7) // 8, dtype=torch.uint8, device=x.device)
    top = _run('relu', x.numel(), source, out, positive, x.numel())
    if inplace:
        out = x if source is x else x.copy_(source)
    remember_magnitude(out, top)
    return out, positive


def relu_grad(grad: Tensor, positive: Tensor) -> Tensor:
    """As `mmint.backends.reference.relu_grad`."""
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    remember_magnitude(out, _run('relu_grad', grad.numel(), grad, positive, out, grad.numel()))
    return out


def max_pool2d(x: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """As `mmint.backends.reference.max_pool2d`."""
    x = x.contiguous()
    kernel, stride, padding, ceil_mode = pooling
    meta = torch.empty(x.shape, device='meta')
    shape = F.max_pool2d(meta, kernel, stride, padding, 1, ceil_mode).shape
    out = torch.empty(shape, dtype=torch.float32, device=x.device)
    place = torch.empty(shape, dtype=torch.uint8, device=x.device)
    top = _run('max_pool2d', out.numel(), x, out, place, _planes(x.shape, shape, pooling))
    remember_magnitude(out, top)
    return out, place


def max_pool2d_grad(
    grad: Tensor, place: Tensor, input_size: tuple[int, int, int, int], pooling: Pooling
) -> Tensor:
    """As `mmint.backends.reference.max_pool2d_grad`."""
    grad = grad.contiguous()
    out = torch.empty(tuple(input_size), dtype=torch.float32, device=grad.device)
    planes = _planes(input_size, grad.shape, pooling)
    remember_magnitude(out, _run('max_pool2d_grad', out.numel(), grad, out, place, planes))
    return out


def _run(name: str, elements: int, *arguments: Argument) -> Tensor:
    """Launches a kernel for so many elements; returns the largest magnitude that it wrote."""
    device = arguments[0].device
    top = torch.zeros((), dtype=torch.int32, device=device)
    if elements:
        blocks = -(-elements // THREADS)
        run('exact.cu', name, blocks, THREADS, [*arguments, top], device)
    return top


def _planes(size: tuple[int, ...], out_size: tuple[int, ...], pooling: Pooling) -> tuple[int, ...]:
    kernel, stride, padding, _ = pooling
    return (size[0] * size[1], *size[2:], *out_size[2:], *kernel, *stride, *padding)
