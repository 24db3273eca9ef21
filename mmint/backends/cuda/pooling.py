"""Average pooling: arguments of the kernels in pooling.cu."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ...numerics import FixedPoint
from ..geometry import Windows
from ..host.pooling import RECIPROCAL_BITS, reciprocals
from ..magnitudes import remember_magnitude
from .launch import launch
from .zeroed import zeros

CHANNELS, PLACES = 32, 8


def avg_pool2d(x: FixedPoint, windows: Windows) -> Tensor:
    """As `Backend.avg_pool2d`."""
    images, channels, *image = x.mantissa.shape
    shape = (images, channels, *map(len, windows[:2]))
    return _average('avg_pool2d', x, shape, image, windows)


def avg_pool2d_grad(
    grad: FixedPoint, input_size: tuple[int, int, int, int], windows: Windows
) -> Tensor:
    """As `Backend.avg_pool2d_grad`."""
    return _average('avg_pool2d_grad', grad, tuple(input_size), input_size[2:], windows)


def _average(
    name: str, x: FixedPoint, shape: tuple[int, ...], image: Sequence[int], windows: Windows
) -> Tensor:
    mantissa = x.mantissa.contiguous(memory_format=torch.channels_last)
    device = mantissa.device
    out = torch.empty(shape, dtype=torch.float32, device=device)
    top = zeros((), torch.int32, device)
    if out.numel():
        results = out.numel() // shape[1]
        launch(
            'pooling.cu', f'{name}_{8 * mantissa.element_size()}',
            -(-shape[1] // CHANNELS) * -(-results // PLACES), CHANNELS * PLACES,
            [(mantissa, out, *shape[:2], -RECIPROCAL_BITS, x.exponent, top),
             (*_tables(windows, tuple(image), device), *image, *map(len, windows[:2]))],
            device,
        )  # fmt: skip
    remember_magnitude(out, top)
    return out


@functools.cache
def _tables(
    windows: Windows, image: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The tensors of the struct ``windows`` of pooling.cu, for images of ``image`` size.

    They stay, for a captured graph may read them; like kernels they are made before a capture, in
    which PyTorch refuses the copies.
    """
    axes = [_clamped(*axis) for axis in zip(windows[:2], image, strict=True)]
    holders = [_holders(*axis) for axis in zip(axes, image, strict=True)]
    ranges = (torch.tensor(r, dtype=torch.int64, device=device) for r in (*axes, *holders))
    rows, columns, in_rows, in_columns = ranges
    return rows, columns, reciprocals(windows, device), in_rows, in_columns


def _clamped(ranges: tuple[tuple[int, int], ...], size: int) -> list[tuple[int, int]]:
    """Start and stop inside the image."""
    return [(max(0, start), min(stop, size)) for start, stop in ranges]


def _holders(ranges: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """For each row or column the first window that holds it, and one past the last."""
    holders = [[i for i, (a, b) in enumerate(ranges) if a <= place < b] for place in range(size)]
    return [(held[0], held[-1] + 1) if held else (0, 0) for held in holders]
