"""Average pooling in integers.

A window's mean is the exact sum of its mantissas times a fixed-point reciprocal of its divisor,

    reciprocal = round(2**RECIPROCAL_BITS / divisor)

whose relative error is below ``divisor * 2**-41``, that is 2**-25, half a unit of float32, up to a
divisor of 2**16. Windows are a range of rows and a range of columns, so that fixed, ceiling-mode
and adaptive pooling are one operation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint
from ..geometry import Windows
from ..host.pooling import RECIPROCAL_BITS, reciprocals
from .mapping import dequantize


def avg_pool2d(x: FixedPoint, windows: Windows) -> Tensor:
    """As `Backend.avg_pool2d`.

    A sum of mantissas times a reciprocal is below 2**(15 + RECIPROCAL_BITS), since no window has
    more elements than its divisor.
    """
    height, width = x.mantissa.shape[2:]
    rows = _members(windows.rows, height, x.mantissa.device)
    columns = _members(windows.columns, width, x.mantissa.device)
    total = rows @ x.mantissa.to(torch.int64) @ columns.t()
    return dequantize(total * reciprocals(windows, total.device), _exponent(x))


def avg_pool2d_grad(
    grad: FixedPoint, input_size: tuple[int, int, int, int], windows: Windows
) -> Tensor:
    """As `Backend.avg_pool2d_grad`."""
    rows = _members(windows.rows, input_size[2], grad.mantissa.device)
    columns = _members(windows.columns, input_size[3], grad.mantissa.device)
    share = grad.mantissa.to(torch.int64) * reciprocals(windows, grad.mantissa.device)
    return dequantize(rows.t() @ share @ columns, _exponent(grad))


def _exponent(x: FixedPoint) -> int:
    return int(x.exponent) - RECIPROCAL_BITS


def _members(ranges: tuple[tuple[int, int], ...], size: int, device: torch.device) -> Tensor:
    """int64 (len(ranges), size): 1 where the element lies in the range."""
    place = torch.arange(size, device=device)
    start, stop = torch.tensor(ranges, dtype=torch.int64, device=device).unbind(1)
    return ((place >= start[:, None]) & (place < stop[:, None])).to(torch.int64)
