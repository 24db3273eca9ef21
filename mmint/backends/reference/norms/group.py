"""Group norm: statistics of several channels of one image."""

from __future__ import annotations

from torch import Tensor

from ....numerics import FixedPoint
from ....numerics.wide import Wide, add, multiply, narrow, to_float
from ...host.norm import group_size
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


def group_norm(
    x: FixedPoint, sums: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """As `Backend.group_norm`."""
    return elements(group_norm_source(x, sums, weight, bias, eps))


def group_norm_source(
    x: FixedPoint, sums: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Source:
    """As `Backend.group_norm_source`."""
    groups, channels = sums.shape[2], x.mantissa.shape[1]
    count = group_size(x, sums)
    rstd = rstd_of(sums, count, x, eps)[..., None]
    scale = multiply(parameter_of(weight, 1, channels, x).view((groups, -1)), rstd)
    offset = parameter_of(bias, 0, channels, x).view((groups, -1))
    a, b, exponent = forward_coefficients(scale, offset, sums[..., None], count, x)
    return affine(x, a.flatten(1), b.flatten(1), exponent.flatten(1))


def group_norm_grad(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    weight: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `Backend.group_norm_grad`."""
    made, dweight, dbias = group_norm_grad_source(grad, x, sums, products, weight, eps)
    return elements(made), dweight, dbias


def group_norm_grad_source(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    weight: Tensor | None,
    eps: float,
) -> tuple[Source, Tensor, Tensor]:
    """As `Backend.group_norm_grad_source`.

    Images add to the parameters' gradients one after another, as wide numbers.
    """
    (images, groups), channels = sums.shape[1:], x.mantissa.shape[1]
    count, members = group_size(x, sums), channels // groups
    rstd = rstd_of(sums, count, x, eps)
    scale = multiply(parameter_of(weight, 1, channels, x).view((groups, members)), rstd[..., None])
    products = products.view(2, images, groups, members)
    p, q, r, exponent = backward_coefficients(
        scale.view((images * groups, members)),
        rstd.view((images * groups,)),
        sums.flatten(1),
        products.flatten(1, 2),
        count,
        grad,
        x,
    )
    groupwise = (v[:, None].expand_as(p) for v in (q, r, exponent))
    dx = bilinear(grad, x, *(v.reshape(images, channels) for v in (p, *groupwise)))
    of_grad, of_x = (exponents_by_group(t, sums.shape[1:])[..., None] for t in (grad, x))
    slopes = slope(sums[0, ..., None], products, count, rstd[..., None]).shifted(of_grad + of_x)
    totals = narrow(products[0], of_grad)
    dweight, dbias = (_sum_of_images(v.view((images, channels))) for v in (slopes, totals))
    return dx, to_float(dweight), to_float(dbias)


def _sum_of_images(values: Wide) -> Wide:
    images, channels = values.mantissa.shape
    total = narrow(values.mantissa.new_zeros(channels), 0)
    for i in range(images):
        total = add(total, values[i])
    return total
