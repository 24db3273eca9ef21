"""What interpolation needs: numbers as fixed point, the taps of a resizing, memory for others."""

from __future__ import annotations

import functools
import struct
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import Places, RoISampling

POSITION_BITS, WEIGHT_BITS = 24, 14
ONE = 1 << POSITION_BITS  # pixel
FARTHEST = 1 << 52  # that a position is from 0: 2**28 pixels


class Taps(NamedTuple):
    """Where results read, as kernels take it.

    Attributes:
        image: int32 (K,), of boxes; None where there is one set of taps for all images.
        rows, columns: int32 (K or 1, results, 3): the first place, one past the last, and where in
            the row of weights theirs begin.
        row_weights, column_weights: int16 (K or 1, as many as there may be).
    """

    image: Tensor | None
    rows: Tensor
    row_weights: Tensor
    columns: Tensor
    column_weights: Tensor


def box_taps(boxes: Tensor, size: tuple[int, ...], sampling: RoISampling) -> Taps:
    """Memory for the taps of ``boxes`` (K, 5) in images of ``size``, on their device."""
    axes = [
        torch.empty((len(boxes), *shape), dtype=dtype, device=boxes.device)
        for n, results in zip(size, sampling.output_size, strict=True)
        for shape, dtype in (((results, 3), torch.int32), ((n + 2 * results,), torch.int16))
    ]
    return Taps(torch.empty(len(boxes), dtype=torch.int32, device=boxes.device), *axes)


@functools.cache
def resizing_taps(places: Places, size: tuple[int, ...], device: torch.device) -> Taps:
    """The taps of a resizing of images of ``size``; they stay, for a CUDA graph may read them."""
    axes = []
    for positions, n in zip(places, size, strict=True):
        taps: list[tuple[int, int, int]] = []
        weights: list[int] = []
        unit = ONE >> WEIGHT_BITS
        for position in positions:
            low, part = divmod(position, ONE)
            weight = (ONE - part + unit // 2) // unit
            taps.append((low, min(low + 2, n), 2 * len(taps)))
            weights += [weight, (1 << WEIGHT_BITS) - weight]
        axes.append(torch.tensor(taps, dtype=torch.int32, device=device)[None])
        axes.append(torch.tensor(weights, dtype=torch.int16, device=device)[None])
    return Taps(None, *axes)


@functools.lru_cache(maxsize=64)
def most_weight(places: Places) -> int:
    """At most so much, rounded up, do the weights of one pixel in all results add up to."""
    most = 1
    for positions in places:
        total: Counter[int] = Counter()
        for position in positions:
            low, part = divmod(position, ONE)
            total[low] += ONE - part
            total[low + 1] += part
        most *= max(total.values()) // ONE + 2
    return most


def float32(value: float) -> float:
    """The float32 nearest to ``value``."""
    return struct.unpack('f', struct.pack('f', value))[0]


def float32_pattern(value: float) -> int:
    """The bits of the float32 nearest to ``value``."""
    return struct.unpack('I', struct.pack('f', value))[0]
