"""Convolutions that are called as functions.

What a subclass of one of PyTorch's layers calls, or a head that computes its weights.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch.nn.modules.utils import _ntuple

from ...backends import Geometry
from ..conv import conv, conv_transpose
from ..operands import is_float
from ..registry import Scope, integer
from ..weights import map_weight


@integer(F.conv1d, F.conv2d, F.conv3d)
def _conv(
    scope: Scope,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    if not is_float(input, weight) or input.dim() != weight.dim() or isinstance(padding, str):
        return NotImplemented
    if input.shape[1] != weight.shape[1] * groups or len(weight) % groups:
        return NotImplemented
    each = _ntuple(input.dim() - 2)
    geometry = Geometry(each(stride), each(padding), each(dilation), groups)
    mapper = scope.mapper()
    mapped = map_weight(weight, mapper, groups=groups)
    return conv(input, weight, mapped, bias, geometry, mapper)


@integer(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
def _conv_transpose(
    scope: Scope,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    if not is_float(input, weight) or input.dim() != weight.dim():
        return NotImplemented
    if input.shape[1] != len(weight) or len(weight) % groups:
        return NotImplemented
    each = _ntuple(input.dim() - 2)
    geometry = Geometry(each(stride), each(padding), each(dilation), groups)
    mapper = scope.mapper()
    mapped = map_weight(weight, mapper, 1, groups)
    return conv_transpose(input, weight, mapped, bias, geometry, each(output_padding), mapper)
