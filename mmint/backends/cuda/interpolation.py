"""RoIAlign and resizing: arguments of the kernels in interpolation.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint
from ..geometry import Places, RoISampling
from ..host.interpolation import WEIGHT_BITS, Taps, box_taps, float32_pattern, resizing_taps
from ..magnitudes import remember_magnitude
from . import finite
from .launch import THREADS, launch
from .zeroed import zeros

SOURCE = 'interpolation.cu'
CHANNELS, PLACES = 32, 8


def roi_align(x: FixedPoint, boxes: Tensor, sampling: RoISampling) -> Tensor:
    """As `Backend.roi_align`; what a bad box reads is zeros or of another one."""
    size = tuple(x.mantissa.shape)
    return _interpolate(x, size, _box_taps(boxes, size, sampling))


def roi_align_grad(
    grad: FixedPoint,
    boxes: Tensor,
    input_size: tuple[int, int, int, int],
    sampling: RoISampling,
) -> Tensor:
    """As `Backend.roi_align_grad`."""
    return _interpolate_grad(grad, tuple(input_size), _box_taps(boxes, input_size, sampling))


def resize(x: FixedPoint, places: Places) -> Tensor:
    """As `Backend.resize`."""
    size = tuple(x.mantissa.shape)
    return _interpolate(x, size, resizing_taps(places, size[2:], x.mantissa.device))


def resize_grad(grad: FixedPoint, input_size: tuple[int, int, int, int], places: Places) -> Tensor:
    """As `Backend.resize_grad`."""
    size = tuple(input_size)
    return _interpolate_grad(grad, size, resizing_taps(places, size[2:], grad.mantissa.device))


def _box_taps(boxes: Tensor, input_size: tuple[int, ...], sampling: RoISampling) -> Taps:
    boxes = boxes.detach().to(torch.float32).contiguous()
    device, scale = boxes.device, float32_pattern(sampling.spatial_scale)
    taps = box_taps(boxes, input_size[2:], sampling)
    if len(boxes):
        launch(
            SOURCE, 'box_taps', -(-2 * len(boxes) // THREADS), THREADS,
            [boxes, tuple(taps), _sizes(input_size, taps), scale, sampling.sampling_ratio,
             sampling.aligned, (finite.flag(device), finite.number(device))],
            device,
        )  # fmt: skip
    return taps


def _interpolate(x: FixedPoint, size: tuple[int, ...], taps: Taps) -> Tensor:
    mantissa = _channels_last(x)
    sizes = _sizes(size, taps)
    count, _, channels, _, _, *results = sizes
    out = torch.empty((count, channels, *results), dtype=torch.float32, device=mantissa.device)
    top = zeros((), torch.int32, mantissa.device)
    if out.numel():
        launch(
            SOURCE, 'interpolate', _blocks(out), THREADS,
            [mantissa, out, tuple(taps), sizes, -2 * WEIGHT_BITS, x.exponent, top],
            mantissa.device,
        )  # fmt: skip
    remember_magnitude(out, top)
    return out


def _interpolate_grad(grad: FixedPoint, size: tuple[int, ...], taps: Taps) -> Tensor:
    mantissa = _channels_last(grad)
    device, sizes = mantissa.device, _sizes(size, taps)
    out = torch.empty(size, dtype=torch.float32, device=device)
    sums = zeros(size, torch.int64, device)  # channels-last
    top = zeros((), torch.int32, device)
    if mantissa.numel():
        launch(
            SOURCE, 'interpolate_grad', _blocks(mantissa), THREADS,
            [mantissa, sums, tuple(taps), sizes], device,
        )  # fmt: skip
    if out.numel():
        launch(
            SOURCE, 'round_sums', _blocks(out), THREADS,
            [sums, out, sizes, -2 * WEIGHT_BITS, grad.exponent, top], device,
        )  # fmt: skip
    remember_magnitude(out, top)
    return out


def _channels_last(x: FixedPoint) -> Tensor:
    return x.mantissa.to(torch.int16).contiguous(memory_format=torch.channels_last)


def _sizes(size: tuple[int, ...], taps: Taps) -> tuple[int, ...]:
    """The struct ``sizes`` of interpolation.cu."""
    count = size[0] if taps.image is None else len(taps.image)
    return count, *size, taps.rows.shape[1], taps.columns.shape[1]


def _blocks(x: Tensor) -> int:
    """For 32 channels by 8 results or pixels."""
    images, channels, height, width = x.shape
    return -(-channels // CHANNELS) * -(-images * height * width // PLACES)
