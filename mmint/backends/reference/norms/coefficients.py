"""Outputs and input gradients of norms: integer coefficients of the mantissas, one rounding."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ....numerics import FixedPoint
from ....numerics.integers import divide_even
from ....numerics.wide import (
    LOWEST,
    Wide,
    divide,
    from_float,
    from_integers,
    multiply,
    to_integers,
    top_exponent,
)
from ...source import Source
from .statistics import exactly, exponents_by_group, scatter

SCALE_BITS = 22


def forward_coefficients(
    scale: Wide, offset: Wide, sums: Tensor, count: int, x: FixedPoint
) -> tuple[Tensor, Tensor, Tensor]:
    """a, b and their exponent such that ``a * X + b`` is ``scale * (x - mean) + offset``.

    Where a group is constant, V = 0, its scale counts as 0, so that nothing but the offset chooses
    the exponent.
    """
    constant = scatter(sums, count).mantissa == 0
    scale = Wide(torch.where(constant, 0, scale.mantissa), scale.exponent)
    scale = scale.shifted(exponents_by_group(x, sums.shape[1:]))
    exponent = shared(top_exponent(scale, SCALE_BITS), top_exponent(offset, SCALE_BITS + x.bits))
    a = to_integers(scale, exponent)
    means, shape = exactly(lambda a, s: divide_even(a * s, count), a, sums[0])
    return a, to_integers(offset, exponent) - sums.new_tensor(means).view(shape), exponent


def backward_coefficients(
    scale: Wide,
    rstd: Wide,
    sums: Tensor,
    products: Tensor,
    count: int,
    grad: FixedPoint,
    x: FixedPoint,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p (groups, members), q, r and exponent (groups,): ``p * G + q * X + r`` is the gradient.

    ``p = scale``, ``q = -rstd**2 * cov(p * G, X)``, and r is minus the mean of both. The scales are
    rounded twice: to 22 bits for the covariance, whose integers

        n * sum(p * H2) - S1 * sum(p * H1)

    are exact, then at the exponent of all coefficients, at which q may be 2**`SCALE_BITS` times
    what G's mantissas are wider than X's.

    Args:
        scale: (groups, members), weight times rstd, one for each sum in ``products``.
        rstd: (groups,).
        sums: (2, groups).
        products: (2, groups, members).
        count: elements of a group.
    """
    device = sums.device
    scale = scale.shifted(exponents_by_group(grad, sums.shape[1:])[..., None])
    highest = top_exponent(scale, SCALE_BITS).amax(1)
    p = to_integers(scale, highest[:, None])
    s1, h1, h2 = sums[0].tolist(), products[0].tolist(), products[1].tolist()
    covariances = [
        count * _dot(p_g, h2_g) - s1_g * _dot(p_g, h1_g)
        for p_g, s1_g, h1_g, h2_g in zip(p.tolist(), s1, h1, h2, strict=True)
    ]
    cov = divide(from_integers(covariances, device), from_integers([count * count], device)[0])
    slope = -multiply(multiply(cov, rstd), rstd)
    slope = slope.shifted(highest + 2 * exponents_by_group(x, sums.shape[1:]))
    exponent = shared(highest, top_exponent(slope, SCALE_BITS + grad.bits - x.bits))
    p, q = to_integers(scale, exponent[:, None]), to_integers(slope, exponent)
    means = [
        divide_even(_dot(p_g, h1_g) + q_g * s1_g, count)
        for p_g, q_g, s1_g, h1_g in zip(p.tolist(), q.tolist(), s1, h1, strict=True)
    ]
    return p, q, -sums.new_tensor(means), exponent


def affine(x: FixedPoint, a: Tensor, b: Tensor, exponent: Tensor) -> Source:
    """``a * X + b``; coefficients (N or 1, C)."""
    made = torch.stack([a, torch.zeros_like(a), b, exponent.expand_as(a)], -1)
    return Source(x, made.flatten(0, 1))


def bilinear(
    grad: FixedPoint, x: FixedPoint, p: Tensor, q: Tensor, r: Tensor, exponent: Tensor
) -> Source:
    """``p * G + q * X + r``; coefficients (N or 1, C)."""
    return Source(grad, torch.stack([p, q, r, exponent], -1).flatten(0, 1), x)


def shared(*exponents: Tensor) -> Tensor:
    """The highest, 0 where all belong to zeros."""
    highest = functools.reduce(torch.maximum, exponents)
    return torch.where(highest == LOWEST, 0, highest)


def parameter_of(parameter: Tensor | None, default: int, channels: int, x: FixedPoint) -> Wide:
    """A parameter (C,), wide; ``default`` where it is None."""
    if parameter is not None:
        return from_float(parameter.detach())
    return from_integers([default] * channels, x.mantissa.device)


def _dot(a: list[int], b: list[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))
