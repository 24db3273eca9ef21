"""Layer norm: arguments of the kernels in layer_norm.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint
from ...numerics.wide import number
from ..host.arguments import flat
from ..host.checks import checked_count
from ..magnitudes import remember_magnitude
from .library import ready
from .operands import check_finite, planar_pair, with_exponent, with_exponents


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
        x=mantissa, weight=weight, bias=bias, out=out, sums=sums, rows=rows,
        size=checked_count(size, 1), wide=mantissa.dtype == torch.int16, bits=x.bits,
        **with_exponents('exponent', x), **with_exponent('eps', number(eps)),
        threads=torch.get_num_threads(),
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
        grad=left, x=right, sums=sums, weight=weight, out=dx, dweight=dweight, dbias=dbias,
        rows=rows, size=checked_count(size, 1), wide=wide, grad_bits=grad.bits, bits=x.bits,
        grad_exponent=int(grad.exponent), **with_exponents('exponent', x),
        **with_exponent('eps', number(eps)), threads=torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(dx, check_finite(top))
    return dx, dweight, dbias
