"""Bilinear resizing, and torchvision's RoIAlign, which its detectors call as an operator."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from ...backends import Places, RoISampling
from ..interpolation import is_accepted, is_identity, resize, resizing_places, roi_align
from ..operands import is_empty, is_float
from ..registry import Scope, integer
from .arithmetic import branching

_resize_otherwise = branching(F.interpolate)


@integer(F.interpolate)
def _interpolate(
    scope: Scope,
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = 'nearest',
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """Bilinear in integers; nearest is exact as it is, other modes are in float."""
    rest = size, scale_factor, mode, align_corners, recompute_scale_factor, antialias
    if mode != 'bilinear' or antialias or not is_float(input) or input.dim() != 4:
        return _resize_otherwise(scope, input, *rest)
    places = _places(input, size, scale_factor, align_corners, recompute_scale_factor)
    if places is None or is_identity(places, tuple(input.shape[2:])):
        return _resize_otherwise(scope, input, *rest)
    return resize(input, places, scope.mapper())


def _places(
    input: Tensor, size: Any, factors: Any, align_corners: bool | None, recompute: bool | None
) -> Places | None:
    """None where PyTorch complains."""
    if (size is None) == (factors is None) or is_empty(input):
        return None
    height, width = input.shape[2:]
    given = _pair(size if factors is None else factors)
    if len(given) != 2:
        return None
    own_factors: tuple[float | None, float | None] = None, None
    if factors is None:
        out_size = int(given[0]), int(given[1])
    else:
        out_size = int(height * float(given[0])), int(width * float(given[1]))
        if not recompute:
            own_factors = float(given[0]), float(given[1])
    if min(out_size) < 1:
        return None
    return resizing_places((height, width), out_size, bool(align_corners), own_factors)


@integer('torchvision::roi_align')
def _roi_align(
    scope: Scope,
    input: Any,
    rois: Any,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Any:
    if not is_float(input, rois) or input.dim() != 4 or rois.dim() != 2:
        return NotImplemented
    size = pooled_height, pooled_width
    sampling = RoISampling(size, spatial_scale, max(0, sampling_ratio), aligned)
    if not is_accepted(sampling):
        return NotImplemented
    return roi_align(input, rois, sampling, scope.mapper())
