"""Average pooling: arguments of the kernels in pooling.c."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ...numerics import FixedPoint
from ..geometry import Windows
from ..host.pooling import RECIPROCAL_BITS, reciprocals
from ..magnitudes import remember_magnitude
from .library import ready
from .operands import to_planar


def avg_pool2d(x: FixedPoint, windows: Windows) -> Tensor:
    """As `Backend.avg_pool2d`."""
    shape = x.mantissa.shape
    out = torch.empty((*shape[:2], *map(len, windows[:2])), dtype=torch.float32)
    return _average(ready().avg_pool2d, x, out, shape, windows)


def avg_pool2d_grad(
    grad: FixedPoint, input_size: tuple[int, int, int, int], windows: Windows
) -> Tensor:
    """As `Backend.avg_pool2d_grad`."""
    out = torch.empty(tuple(input_size), dtype=torch.float32)
    return _average(ready().avg_pool2d_grad, grad, out, input_size, windows)


def _average(
    kernel: Callable[..., int],
    x: FixedPoint,
    out: Tensor,
    input_size: tuple[int, ...],
    windows: Windows,
) -> Tensor:
    planar = to_planar(x.mantissa)
    images, channels, height, width = input_size
    rows, columns, inverse = _arrays(windows, height, width)
    top = kernel(
        x=planar, out=out, rows=rows, columns=columns, reciprocals=inverse,
        planes=images * channels, height=height, width=width, out_h=len(rows), out_w=len(columns),
        wide=planar.dtype == torch.int16, exponent=int(x.exponent) - RECIPROCAL_BITS,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(out, top)
    return out


@functools.lru_cache(maxsize=64)
def _arrays(windows: Windows, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """int64 rows and columns (start, stop), inside the image, and reciprocals."""
    rows, columns = (
        torch.tensor(ranges, dtype=torch.int64).clamp(0, size)
        for ranges, size in zip(windows[:2], (height, width), strict=True)
    )
    for ranges in (rows, columns):
        ranges[:, 1] = torch.maximum(*ranges.unbind(1))  # empty, not negative
    return rows, columns, reciprocals(windows)
