"""Average pooling in integers: `mmint.backends.reference.pooling`."""

from __future__ import annotations

import functools
import math
from typing import Any

from torch import Tensor
from torch.autograd import Function

from ..backends import Windows
from ..backends.host.pooling import RECIPROCAL_BITS
from ..numerics import Role
from .derivative import first_derivative
from .fork import use
from .mapper import Mapper
from .planes import map_planes


def avg_pool2d(x: Tensor, windows: Windows, mapper: Mapper) -> Tensor:
    """Means of float32 ``x`` (N, C, H, W) over ``windows``; returns float32 (N, C, H', W')."""
    return _AvgPool2d.apply(use(x, mapper), windows, mapper)


@functools.lru_cache(maxsize=64)
def fixed_windows(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Windows:
    """The windows of `torch.nn.functional.avg_pool2d` on an image of ``size``."""
    inside, padded = [], []
    for n, k, s, p in zip(size, kernel, stride, padding, strict=True):
        count = (n + 2 * p - k + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (count - 1) * s >= n + p:  # it would begin in the padding after the image
            count -= 1
        ranges = [(i * s - p, min(i * s - p + k, n + p)) for i in range(count)]
        inside.append(tuple((max(start, 0), min(stop, n)) for start, stop in ranges))
        padded.append(tuple(ranges))
    rows, columns = padded if count_include_pad else inside
    divisors = tuple(tuple(divisor or (r[1] - r[0]) * (c[1] - c[0]) for c in columns) for r in rows)
    return Windows(inside[0], inside[1], divisors)


@functools.lru_cache(maxsize=64)
def adaptive_windows(size: tuple[int, int], count: tuple[int, int]) -> Windows:
    """The windows of `torch.nn.functional.adaptive_avg_pool2d` with ``count`` outputs a side."""
    rows, columns = (
        tuple((i * n // c, -(-(i + 1) * n // c)) for i in range(c))
        for n, c in zip(size, count, strict=True)
    )
    divisors = tuple(tuple((r[1] - r[0]) * (c[1] - c[0]) for c in columns) for r in rows)
    return Windows(rows, columns, divisors)


@functools.lru_cache(maxsize=64)
def most_windows(windows: Windows) -> int:
    """How many windows at most hold the same element."""
    return math.prod(
        max(sum(start <= place < stop for start, stop in axis) for place, _ in axis)
        for axis in (windows.rows, windows.columns)
    )


def max_windows(bits: int) -> int:
    """How many may, so that int64 holds the sum of their mantissas times reciprocals."""
    return 1 << (62 - RECIPROCAL_BITS - (bits - 1))


class _AvgPool2d(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, windows: Windows, mapper: Mapper) -> Tensor:
        mapped = map_planes(x, Role.INPUT, mapper)
        ctx.mapper, ctx.windows, ctx.size = mapper, windows, tuple(x.shape)
        return mapper.backend(x).avg_pool2d(mapped, windows)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        mapped = map_planes(grad, Role.GRADIENT, ctx.mapper)
        return ctx.mapper.backend(grad).avg_pool2d_grad(mapped, ctx.size, ctx.windows), None, None
