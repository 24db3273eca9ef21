"""Batch norm with the statistics of the batch."""

from __future__ import annotations

from torch import Tensor

from ....numerics import FixedPoint
from ....numerics.wide import multiply, narrow, to_float
from ...running import Running
from ...source import Source
from ..source import elements
from .coefficients import (
    affine,
    backward_coefficients,
    bilinear,
    forward_coefficients,
    parameter_of,
)
from .running import update_running
from .statistics import exponents_by_group, rstd_of, slope


def batch_norm(
    x: FixedPoint,
    sums: Tensor,
    count: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    running: Running | None = None,
) -> Tensor:
    """As `Backend.batch_norm`."""
    return elements(batch_norm_source(x, sums, count, weight, bias, eps, running))


def batch_norm_source(
    x: FixedPoint,
    sums: Tensor,
    count: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    running: Running | None = None,
) -> Source:
    """As `Backend.batch_norm_source`."""
    if running is not None:
        update_running(running.mean, running.var, x, sums, count, running.momentum)
        if running.batches is not None:
            running.batches.add_(1)
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
    own: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `Backend.batch_norm_grad`."""
    made, dweight, dbias = batch_norm_grad_source(grad, x, sums, products, count, weight, eps, own)
    return elements(made), dweight, dbias


def batch_norm_grad_source(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    count: int,
    weight: Tensor | None,
    eps: float,
    own: Tensor | None = None,
) -> tuple[Source, Tensor, Tensor]:
    """As `Backend.batch_norm_grad_source`."""
    rstd = rstd_of(sums, count, x, eps)
    scale = multiply(parameter_of(weight, 1, x.mantissa.shape[1], x), rstd)
    p, q, r, exponent = backward_coefficients(
        scale[:, None], rstd, sums, products[:, :, None], count, grad, x
    )
    dx = bilinear(grad, x, p.t(), q[None], r[None], exponent[None])
    own = products if own is None else own
    of_grad, of_x = (exponents_by_group(t, rstd.mantissa.shape) for t in (grad, x))
    dweight = slope(sums[0], own, count, rstd).shifted(of_grad + of_x)
    return dx, to_float(dweight), to_float(narrow(own[0], of_grad))
