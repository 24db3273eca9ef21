"""Sums of planes and what follows from them: exact integers, then wide numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....numerics import FixedPoint
from ....numerics.wide import Wide, add, divide, from_integers, from_number, multiply, rsqrt
from ...host.checks import checked_count


def plane_sums(x: FixedPoint, joined: bool = False) -> Tensor:
    """As `Backend.plane_sums`."""
    return plane_products(x, x, joined)


def plane_products(grad: FixedPoint, x: FixedPoint, joined: bool = False) -> Tensor:
    """As `Backend.plane_products`."""
    planes = planes_of(grad)
    sums = torch.stack([planes.sum(2), (planes * planes_of(x)).sum(2)])
    return sums.sum(1) if joined else sums


def planes_of(x: FixedPoint) -> Tensor:
    """``x`` (N, C, ...) as int64 (N, C, P)."""
    size = x.mantissa.shape
    return x.mantissa.to(torch.int64).reshape(*size[:2], size[2:].numel())


def exponents_by_group(x: FixedPoint, groups: torch.Size) -> Tensor:
    """The exponent of each of ``groups`` (a shape), int64; without dimensions if all share it."""
    exponent = x.exponent.to(torch.int64)
    return exponent.view(groups) if exponent.dim() else exponent


def scatter(sums: Tensor, count: int) -> Wide:
    """``V = n * S2 - S1**2`` of sums (2, ...)."""
    values, shape = exactly(lambda s1, s2: count * s2 - s1 * s1, *sums)
    return from_integers(values, sums.device).view(shape)


def rstd_of(sums: Tensor, count: int, x: FixedPoint, eps: float) -> Wide:
    """``1 / sqrt(var + eps)`` of sums (2, ...); ``eps`` is positive."""
    square = from_integers([checked_count(count, 1) ** 2], sums.device)[0]
    var = divide(scatter(sums, count), square).shifted(2 * exponents_by_group(x, sums.shape[1:]))
    return rsqrt(add(var, from_number(eps, sums.device)))


def slope(s1: Tensor, products: Tensor, count: int, rstd: Wide) -> Wide:
    """``rstd * (n * H2 - S1 * H1) / n``, for mantissas: sum of the gradient times normalised X."""
    values, shape = exactly(lambda s, h1, h2: count * h2 - s * h1, s1, *products)
    total = from_integers(values, s1.device).view(shape)
    return multiply(divide(total, from_integers([count], s1.device)[0]), rstd)


def exactly(function: Callable[..., int], *operands: Tensor) -> tuple[list[int], torch.Size]:
    """``function`` of each element of int64 tensors, in Python's integers, and their shape."""
    operands = torch.broadcast_tensors(*operands)
    columns = [operand.flatten().tolist() for operand in operands]
    return [function(*row) for row in zip(*columns, strict=True)], operands[0].shape
