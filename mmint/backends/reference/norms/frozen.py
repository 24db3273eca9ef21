"""Batch norm with statistics that do not change: evaluation, and frozen layers."""

from __future__ import annotations

import torch
from torch import Tensor

from ....numerics import FixedPoint, NonFiniteError
from ....numerics.wide import (
    Wide,
    add,
    from_float,
    from_number,
    multiply,
    narrow,
    rsqrt,
    to_float,
    to_integers,
    top_exponent,
)
from ...source import Source
from ..source import elements
from .coefficients import SCALE_BITS, affine, parameter_of, shared
from .statistics import exponents_by_group


def frozen_norm(
    x: FixedPoint,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """As `Backend.frozen_norm`."""
    return elements(frozen_norm_source(x, mean, var, weight, bias, eps))


def frozen_norm_source(
    x: FixedPoint,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Source:
    """As `Backend.frozen_norm_source`."""
    rstd = _rstd(var, eps)
    scale = multiply(parameter_of(weight, 1, len(var), x), rstd)
    offset = add(parameter_of(bias, 0, len(var), x), -multiply(from_float(mean), scale))
    scale = scale.shifted(exponents_by_group(x, var.shape))
    exponent = shared(top_exponent(scale, SCALE_BITS), top_exponent(offset, SCALE_BITS + x.bits))
    a, b = to_integers(scale, exponent), to_integers(offset, exponent)
    return affine(x, a[None], b[None], exponent[None])


def frozen_norm_grad(grad: FixedPoint, var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """As `Backend.frozen_norm_grad`."""
    return elements(frozen_norm_grad_source(grad, var, weight, eps))


def frozen_norm_grad_source(
    grad: FixedPoint, var: Tensor, weight: Tensor | None, eps: float
) -> Source:
    """As `Backend.frozen_norm_grad_source`."""
    rstd = _rstd(var, eps)
    scale = multiply(parameter_of(weight, 1, len(var), grad), rstd)
    scale = scale.shifted(exponents_by_group(grad, var.shape))
    exponent = shared(top_exponent(scale, SCALE_BITS))
    p = to_integers(scale, exponent)
    return affine(grad, p[None], torch.zeros_like(p)[None], exponent[None])


def frozen_norm_weight_grad(
    grad: FixedPoint, x: FixedPoint, products: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """As `Backend.frozen_norm_weight_grad`."""
    total = narrow(products[1], exponents_by_group(x, var.shape))
    centred = add(total, -multiply(from_float(mean), narrow(products[0], 0)))
    dweight = multiply(centred, _rstd(var, eps))
    return to_float(dweight.shifted(exponents_by_group(grad, var.shape)))


def _rstd(var: Tensor, eps: float) -> Wide:
    total = add(from_float(var), from_number(eps, var.device))
    if (total.mantissa <= 0).any():
        raise NonFiniteError
    return rsqrt(total)
