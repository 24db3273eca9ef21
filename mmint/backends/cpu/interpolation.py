"""RoIAlign and resizing: arguments of the kernels in interpolation.c."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...numerics import FixedPoint
from ..geometry import Places, RoISampling
from ..host.interpolation import WEIGHT_BITS, Taps, box_taps, float32_pattern, resizing_taps
from ..magnitudes import remember_magnitude
from .library import ready
from .operands import check_finite


def roi_align(x: FixedPoint, boxes: Tensor, sampling: RoISampling) -> Tensor:
    """As `Backend.roi_align`."""
    size = tuple(x.mantissa.shape)
    out = torch.empty((len(boxes), size[1], *sampling.output_size), dtype=torch.float32)
    return _interpolate(ready().interpolate, x, out, size, _box_taps(boxes, size, sampling))


def roi_align_grad(
    grad: FixedPoint,
    boxes: Tensor,
    input_size: tuple[int, int, int, int],
    sampling: RoISampling,
) -> Tensor:
    """As `Backend.roi_align_grad`."""
    out = torch.empty(tuple(input_size), dtype=torch.float32)
    taps = _box_taps(boxes, input_size, sampling)
    return _interpolate(ready().interpolate_grad, grad, out, input_size, taps)


def resize(x: FixedPoint, places: Places) -> Tensor:
    """As `Backend.resize`."""
    size = tuple(x.mantissa.shape)
    out = torch.empty((*size[:2], *map(len, places)), dtype=torch.float32)
    taps = resizing_taps(places, size[2:], out.device)
    return _interpolate(ready().interpolate, x, out, size, taps)


def resize_grad(grad: FixedPoint, input_size: tuple[int, int, int, int], places: Places) -> Tensor:
    """As `Backend.resize_grad`."""
    out = torch.empty(tuple(input_size), dtype=torch.float32)
    taps = resizing_taps(places, tuple(input_size[2:]), out.device)
    return _interpolate(ready().interpolate_grad, grad, out, input_size, taps)


def _box_taps(boxes: Tensor, input_size: tuple[int, ...], sampling: RoISampling) -> Taps:
    boxes = boxes.detach().to(torch.float32).contiguous()
    images, _, height, width = input_size
    taps = box_taps(boxes, (height, width), sampling)
    status = ready().box_taps(
        boxes=boxes, **taps._asdict(), count=len(boxes), images=images, height=height, width=width,
        out_h=sampling.output_size[0], out_w=sampling.output_size[1],
        scale=float32_pattern(sampling.spatial_scale), ratio=sampling.sampling_ratio,
        aligned=sampling.aligned, threads=torch.get_num_threads(),
    )  # fmt: skip
    check_finite(status)
    return taps


def _interpolate(
    kernel: Callable[..., int], x: FixedPoint, out: Tensor, input_size: tuple[int, ...], taps: Taps
) -> Tensor:
    images, channels, height, width = input_size
    mantissa = x.mantissa.to(torch.int16).contiguous()
    out_h, out_w = taps.rows.shape[1], taps.columns.shape[1]
    count = images if taps.image is None else len(taps.image)
    top = kernel(
        x=mantissa, out=out, **taps._asdict(), count=count, images=images,
        channels=channels, height=height, width=width, out_h=out_h, out_w=out_w,
        exponent=int(x.exponent) - 2 * WEIGHT_BITS, threads=torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(out, top)
    return out
