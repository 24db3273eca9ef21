"""Max pooling: arguments of the kernels in max_pooling.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry import Pooling
from ..host.pooling import planes, pooled_size
from ..magnitudes import remember_magnitude
from .library import ready

PLANES = (
    'planes', 'height', 'width', 'out_h', 'out_w', 'kernel_h', 'kernel_w', 'stride_h', 'stride_w',
    'padding_h', 'padding_w',
)  # fmt: skip


def max_pool2d(x: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """As `Backend.max_pool2d`."""
    x = x.contiguous()
    shape = pooled_size(x.shape, pooling)
    out = torch.empty(shape, dtype=torch.float32)
    place = torch.empty(shape, dtype=torch.uint8)
    top = ready().max_pool2d(x=x, out=out, place=place, **_planes(x.shape, shape, pooling))
    remember_magnitude(out, top)
    return out, place


def max_pool2d_grad(
    grad: Tensor, place: Tensor, input_size: tuple[int, int, int, int], pooling: Pooling
) -> Tensor:
    """As `Backend.max_pool2d_grad`."""
    grad = grad.contiguous()
    out = torch.empty(input_size, dtype=torch.float32)
    top = ready().max_pool2d_grad(
        x=grad, out=out, place=place, **_planes(input_size, grad.shape, pooling)
    )
    remember_magnitude(out, top)
    return out


def _planes(size: tuple[int, ...], out_size: tuple[int, ...], pooling: Pooling) -> dict[str, int]:
    given = dict(zip(PLANES, planes(size, out_size, pooling), strict=True))
    return {**given, 'threads': torch.get_num_threads()}
