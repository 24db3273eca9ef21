"""Bilinear interpolation in integers: RoIAlign and resizing, forward and backward.

A result is a mean of samples of an image, a sample a weighted sum of the four pixels around it.
Both go by axis, so that the results of a box are

    rows @ image @ columns.T

with a matrix of weights for each axis. Positions are integers in units of 2**-POSITION_BITS pixels,
weights in units of 2**-WEIGHT_BITS; sums are exact, and rounded once, by the inverse mapping.

The weights of a result are the differences of their rounded running sums: they add up to exactly 1
where all samples lie in the image, so that a constant image stays constant.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from fractions import Fraction

import torch
from torch import Tensor

from ...numerics import FixedPoint, NonFiniteError
from ..geometry import Places, RoISampling
from ..host.interpolation import FARTHEST, ONE, WEIGHT_BITS, float32
from .mapping import dequantize


def roi_align(x: FixedPoint, boxes: Tensor, sampling: RoISampling) -> Tensor:
    """As `Backend.roi_align`.

    A sum of mantissas times weights is below 2**43.
    """
    images, channels, *size = x.mantissa.shape
    shape = len(boxes), channels, *sampling.output_size
    out = torch.zeros(shape, dtype=torch.int64, device=x.mantissa.device)
    for i, (image, rows, columns) in enumerate(_boxes_weights(boxes, images, size, sampling)):
        out[i] = rows @ x.mantissa[image].to(torch.int64) @ columns.t()
    return dequantize(out, _exponent(x))


def roi_align_grad(
    grad: FixedPoint,
    boxes: Tensor,
    input_size: tuple[int, int, int, int],
    sampling: RoISampling,
) -> Tensor:
    """As `Backend.roi_align_grad`."""
    images, _, *size = input_size
    total = torch.zeros(tuple(input_size), dtype=torch.int64, device=grad.mantissa.device)
    for i, (image, rows, columns) in enumerate(_boxes_weights(boxes, images, size, sampling)):
        total[image] += rows.t() @ grad.mantissa[i].to(torch.int64) @ columns
    return dequantize(total, _exponent(grad))


def resize(x: FixedPoint, places: Places) -> Tensor:
    """As `Backend.resize`."""
    rows, columns = _places_weights(places, x.mantissa.shape[2:], x.mantissa.device)
    return dequantize(rows @ x.mantissa.to(torch.int64) @ columns.t(), _exponent(x))


def resize_grad(grad: FixedPoint, input_size: tuple[int, int, int, int], places: Places) -> Tensor:
    """As `Backend.resize_grad`."""
    rows, columns = _places_weights(places, input_size[2:], grad.mantissa.device)
    return dequantize(rows.t() @ grad.mantissa.to(torch.int64) @ columns, _exponent(grad))


def _exponent(x: FixedPoint) -> int:
    return int(x.exponent) - 2 * WEIGHT_BITS


def _places_weights(
    places: Places, size: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    rows, columns = (
        _weights([[position] for position in positions], 1, n).to(device)
        for positions, n in zip(places, size, strict=True)
    )
    return rows, columns


def _boxes_weights(
    boxes: Tensor, images: int, size: list[int], sampling: RoISampling
) -> list[tuple[int, Tensor, Tensor]]:
    """Of each box the number of its image, and the weights of rows and columns.

    Raises:
        NonFiniteError: if a box is not finite, or its image is not there.
    """
    made = []
    for number, *corners in boxes.detach().to(torch.float32).tolist():
        if not all(map(math.isfinite, (number, *corners))) or not 0 <= int(number) < images:
            raise NonFiniteError
        left, upper, right, lower = (_position(c, sampling) for c in corners)
        axes = (upper, lower), (left, right)
        rows, columns = (
            _box_weights(*ends, n, results, sampling).to(boxes.device)
            for ends, n, results in zip(axes, size, sampling.output_size, strict=True)
        )
        made.append((int(number), rows, columns))
    return made


def _position(coordinate: float, sampling: RoISampling) -> int:
    """Of a corner of a box; pixels lie at their numbers where ``aligned``, else half after them."""
    scaled = round(Fraction(coordinate) * Fraction(float32(sampling.spatial_scale)) * ONE)
    return max(-FARTHEST, min(FARTHEST, scaled)) - (ONE // 2 if sampling.aligned else 0)


def _box_weights(start: int, end: int, size: int, results: int, sampling: RoISampling) -> Tensor:
    """Of one axis of a box, int64 (results, size)."""
    length = end - start if sampling.aligned else max(end - start, ONE)
    samples = sampling.sampling_ratio or max(0, -(-length // (results * ONE)))  # of a result
    if length < 0 < samples:
        return _box_weights(end, start, size, results, sampling).flip(0)
    total = samples * results

    def position(q: int) -> int:
        return start + (2 * q + 1) * length // (2 * total)

    # Samples that are more than a pixel outside count as zeros.
    first = bisect_left(range(total), -ONE, key=position)
    stop = bisect_right(range(total), size * ONE, key=position)
    positions: list[list[int]] = [[] for _ in range(results)]
    for q in range(first, stop):
        positions[q // samples].append(position(q))
    return _weights(positions, samples, size)


def _weights(positions: list[list[int]], samples: int, size: int) -> Tensor:
    """Of means of ``samples`` samples, some of which may be missing, int64 (results, size)."""
    exact = torch.zeros((len(positions), size), dtype=torch.int64)
    for row, of_result in zip(exact, positions, strict=True):
        for position in of_result:
            low, part = divmod(max(0, min(position, (size - 1) * ONE)), ONE)
            row[low] += ONE - part
            if part:
                row[low + 1] += part
    unit = max(samples, 1) * ONE >> WEIGHT_BITS
    rounded = (exact.cumsum(1) + unit // 2) // unit
    return rounded.diff(dim=1, prepend=torch.zeros_like(rounded[:, :1]))
