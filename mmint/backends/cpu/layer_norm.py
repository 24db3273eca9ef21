"""Layer norm: arguments of the kernels in layer_norm.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint
from ...numerics.wide import number
from ..host.arguments import flat
from ..host.checks import checked_count
from ..magnitudes import remember_magnitude
from .kernels import ready
from .operands import check_finite, planar_pair


def layer_norm(
    x: FixedPoint, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """As `Backend.layer_norm`."""
    mantissa = x.mantissa.contiguous()
    rows, size = mantissa.shape
    weight = torch.ones(size) if weight is None else flat(weight)
    bias = torch.zeros(size) if bias is None else flat(bias)
    out = torch.empty((rows, size), dtype=torch.float32)
    sums = torch.empty((2, rows), dtype=torch.int64)
    top = ready().layer_norm(
        mantissa.data_ptr(), weight.data_ptr(), bias.data_ptr(), out.data_ptr(), sums.data_ptr(),
        rows, checked_count(size, 1), mantissa.dtype == torch.int16, x.bits, int(x.exponent),
        *number(eps), torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(out, check_finite(top))
    return out, sums


def layer_norm_grad(
    grad: FixedPoint, x: FixedPoint, sums: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `Backend.layer_norm_grad`."""
    left, right, wide = planar_pair(grad, x)
    rows, size = left.shape
    weight = torch.ones(size) if weight is None else flat(weight)
    sums = sums.contiguous()
    dx = torch.empty((rows, size), dtype=torch.float32)
    dweight, dbias = torch.empty((2, size), dtype=torch.float32)
    top = ready().layer_norm_grad(
        left.data_ptr(), right.data_ptr(), sums.data_ptr(), weight.data_ptr(), dx.data_ptr(),
        dweight.data_ptr(), dbias.data_ptr(), rows, checked_count(size, 1), wide, grad.bits, x.bits,
        int(grad.exponent), int(x.exponent), *number(eps), torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(dx, check_finite(top))
    return dx, dweight, dbias
