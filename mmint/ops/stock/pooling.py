"""Means over windows of images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair, _single

from ...backends import Windows
from ..average_pooling import (
    adaptive_windows,
    avg_pool2d,
    fixed_windows,
    max_windows,
    most_windows,
)
from ..operands import is_activation, is_float
from ..registry import Scope, integer


@integer(F.avg_pool2d)
def _avg_pool2d(
    scope: Scope,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    if not is_float(input) or input.dim() != 4:
        return NotImplemented
    kernel, padding = _pair(kernel_size), _pair(padding)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        return NotImplemented
    if divisor_override is not None and divisor_override < kernel[0] * kernel[1]:
        return NotImplemented
    windows = fixed_windows(
        tuple(input.shape[2:]),
        kernel,
        _pair(stride) if stride else kernel,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )
    return _average(scope, input, windows)


@integer(F.adaptive_avg_pool2d)
def _adaptive_avg_pool2d(scope: Scope, input: Any, output_size: Any) -> Any:
    if not is_float(input) or input.dim() != 4:
        return NotImplemented
    size = tuple(input.shape[2:])
    count = tuple(n if c is None else c for c, n in zip(_pair(output_size), size, strict=True))
    return _average(scope, input, adaptive_windows(size, count))


@integer(F.avg_pool1d)
def _avg_pool1d(
    scope: Scope,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """As of an image of one row."""
    if not is_float(input) or input.dim() != 3:
        return NotImplemented
    kernel, stride, padding = (
        (neutral, *_single(setting))
        for neutral, setting in ((1, kernel_size), (1, stride or kernel_size), (0, padding))
    )
    row = input[:, :, None]
    out = _avg_pool2d(scope, row, kernel, stride, padding, ceil_mode, count_include_pad)
    return out if out is NotImplemented else out.squeeze(2)


@integer(F.adaptive_avg_pool1d)
def _adaptive_avg_pool1d(scope: Scope, input: Any, output_size: Any) -> Any:
    if not is_float(input) or input.dim() != 3:
        return NotImplemented
    out = _adaptive_avg_pool2d(scope, input[:, :, None], (1, *_single(output_size)))
    return out if out is NotImplemented else out.squeeze(2)


@integer(Tensor.mean, torch.mean)
def _mean(scope: Scope, input: Any, dim: Any = None, keepdim: bool = False, **others: Any) -> Any:
    """Of the pixels of images (N, C, H, W), or of tokens (N, L, C)."""
    if not is_activation(input) or others or not isinstance(dim, (int, list, tuple)):
        return NotImplemented
    n, given = input.dim(), dim if isinstance(dim, (list, tuple)) else [dim]
    if not all(-n <= d < n for d in given):
        return NotImplemented
    dims = sorted(d % n for d in given)
    if n == 4 and dims == [2, 3]:
        mean = _adaptive_avg_pool2d(scope, input, 1)
        return mean if keepdim or mean is NotImplemented else mean.flatten(1)
    if n == 3 and dims == [1] and not keepdim:  # kept, it is a statistic to subtract
        mean = _adaptive_avg_pool1d(scope, input.transpose(1, 2), 1)
        return mean if mean is NotImplemented else mean.squeeze(2)
    return NotImplemented


def _average(scope: Scope, input: Tensor, windows: Windows) -> Any:
    """Means over ``windows``, if there are any, and few enough share an element."""
    if not windows.rows or not windows.columns or 0 in input.shape[2:]:
        return NotImplemented
    if most_windows(windows) > max_windows(scope.bits):
        return NotImplemented
    return avg_pool2d(input, windows, scope.mapper())
