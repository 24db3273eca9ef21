"""Batch norm with the statistics of the batch."""

from __future__ import annotations

from torch import Tensor

from ....numerics import FixedPoint
from ....numerics.wide import multiply, narrow, to_float
from ...source import Source
from ..source import elements
from .coefficients import (
    affine,
    backward_coefficients,
    bilinear,
    forward_coefficients,
    parameter_of,
)
from .statistics import exponents_by_group, rstd_of, slope


def batch_norm(
    x: FixedPoint,
    sums: Tensor,
    count: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """As `Backend.batch_norm`."""
    return elements(batch_norm_source(x, sums, count, weight, bias, eps))


def batch_norm_source(
    x: FixedPoint,
    sums: Tensor,
    count: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Source:
    """As `Backend.batch_norm_source`."""
    rstd = rstd_of(sums, count, x, eps)
    channels = x.mantissa.shape[1]
    scale = multiply(parameter_of(weight, 1, channels, x), rstd)
    offset = parameter_of(bias, 0, channels, x)
    a, b, exponent = forward_coefficients(scale, offset, sums, count, x)
    return affine(x, a[None], b[None], exponent[None])


def batch_norm_grad(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    count: int,
    weight: Tensor | None,
    eps: float,
) -> Tensor:
    """As `Backend.batch_norm_grad`."""
    rstd = rstd_of(sums, count, x, eps)
    scale = multiply(parameter_of(weight, 1, x.mantissa.shape[1], x), rstd)
    p, q, r, exponent = backward_coefficients(
        scale[:, None], rstd, sums, products[:, :, None], count, grad, x
    )
    return bilinear(grad, x, p.t(), q[None], r[None], exponent[None])


def batch_norm_weight_grad(
    grad: FixedPoint, x: FixedPoint, sums: Tensor, products: Tensor, count: int, eps: float
) -> tuple[Tensor, Tensor]:
    """As `Backend.batch_norm_weight_grad`."""
    rstd = rstd_of(sums, count, x, eps)
    dweight = slope(sums[0], products, count, rstd)
    of_grad, of_x = (exponents_by_group(t, rstd.mantissa.shape) for t in (grad, x))
    return to_float(dweight.shifted(of_grad + of_x)), to_float(narrow(products[0], of_grad))
