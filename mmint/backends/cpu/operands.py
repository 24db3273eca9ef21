"""What the kernels take and return: operands, pointers, statuses."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint, NonFiniteError
from ..host.arguments import pair
from .kernels import ready

NOT_FINITE = -(1 << 20)


def to_planar(mantissa: Tensor) -> Tensor:
    """Contiguous in memory: `contiguous`, faster for a channels-last image."""
    channels_last = mantissa.is_contiguous(memory_format=torch.channels_last)
    if mantissa.is_contiguous() or mantissa.dtype != torch.int8 or not channels_last:
        return mantissa.contiguous()
    images, channels, height, width = mantissa.shape
    out = torch.empty(mantissa.shape, dtype=torch.int8)
    ready().planar(
        mantissa.data_ptr(), out.data_ptr(), images, channels, height * width,
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def planar_pair(a: FixedPoint, b: FixedPoint) -> tuple[Tensor, Tensor, bool]:
    """As `pair`, and contiguous in memory."""
    left, right, wide = pair(a, b)
    return to_planar(left), to_planar(right), wide


def pointer(x: Tensor | None) -> int:
    """Where the data is, 0 if there is none."""
    return 0 if x is None else x.data_ptr()


def check_finite(result: int) -> int:
    """What a kernel returned, unless it is that a value was not finite."""
    if result == NOT_FINITE:
        raise NonFiniteError
    return result
