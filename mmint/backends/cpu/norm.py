"""Batch and group norm: arguments of the kernels in planes.c and norm.c."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...numerics import FixedPoint, scalar
from ...numerics.wide import number
from ..host.arguments import flat
from ..host.checks import checked_count
from ..host.norm import Norms
from ..magnitudes import remember_magnitude
from .kernels import ready
from .operands import check_finite, planar_pair, pointer, to_planar


def plane_sums(x: FixedPoint) -> Tensor:
    """As `Backend.plane_sums`."""
    planar = to_planar(x.mantissa)
    out = torch.empty((2, *planar.shape[:2]), dtype=torch.int64)
    ready().plane_sums(
        planar.data_ptr(), out.data_ptr(), out[0].numel(), math.prod(planar.shape[2:]),
        planar.dtype == torch.int16, torch.get_num_threads(),
    )  # fmt: skip
    return out


def plane_products(grad: FixedPoint, x: FixedPoint) -> Tensor:
    """As `Backend.plane_products`."""
    left, right, wide = planar_pair(grad, x)
    out = torch.empty((2, *left.shape[:2]), dtype=torch.int64)
    ready().plane_products(
        left.data_ptr(), right.data_ptr(), out.data_ptr(), out[0].numel(),
        math.prod(left.shape[2:]), wide, torch.get_num_threads(),
    )  # fmt: skip
    return out


def update_running(
    mean: Tensor, var: Tensor, x: FixedPoint, sums: Tensor, count: int, momentum: float
) -> None:
    """As `Backend.update_running`."""
    new = [statistic.detach().clone() for statistic in (mean, var)]
    sums = sums.contiguous()
    check_finite(ready().update_running(
        *map(pointer, new), sums.data_ptr(), len(mean), checked_count(count, 2), int(x.exponent),
        *scalar(momentum), torch.get_num_threads(),
    ))  # fmt: skip
    for statistic, moved in zip((mean, var), new, strict=True):
        statistic.copy_(moved)


def frozen_norm_weight_grad(
    grad: FixedPoint, x: FixedPoint, products: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """As `Backend.frozen_norm_weight_grad`."""
    products, mean, var = products.contiguous(), flat(mean), flat(var)
    out = torch.empty(len(var), dtype=torch.float32)
    check_finite(ready().frozen_norm_weight_grad(
        products.data_ptr(), mean.data_ptr(), var.data_ptr(), out.data_ptr(), len(var),
        int(grad.exponent), int(x.exponent), *number(eps),
    ))  # fmt: skip
    return out


def _norm(
    x: FixedPoint,
    sums: Tensor,
    groups: int,
    count: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    planar, sums, weight, bias = to_planar(x.mantissa), sums.contiguous(), flat(weight), flat(bias)
    out = torch.empty(planar.shape, dtype=torch.float32)
    top = ready().norm(
        planar.data_ptr(), sums.data_ptr(), pointer(weight), pointer(bias), out.data_ptr(),
        *planar.shape[:2], math.prod(planar.shape[2:]), groups, checked_count(count, 1),
        planar.dtype == torch.int16, x.bits, int(x.exponent), *number(eps),
        torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(out, check_finite(top))
    return out


def _norm_grad(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    groups: int,
    count: int,
    weight: Tensor | None,
    eps: float,
) -> Tensor:
    left, right, wide = planar_pair(grad, x)
    sums, products, weight = sums.contiguous(), products.contiguous(), flat(weight)
    out = torch.empty(left.shape, dtype=torch.float32)
    top = ready().norm_grad(
        left.data_ptr(), right.data_ptr(), sums.data_ptr(), products.data_ptr(), pointer(weight),
        out.data_ptr(), *left.shape[:2], math.prod(left.shape[2:]), groups,
        checked_count(count, 1), wide, grad.bits, x.bits, int(grad.exponent), int(x.exponent),
        *number(eps), torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(out, check_finite(top))
    return out


def _norm_weight_grad(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    groups: int,
    count: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    sums, products = sums.contiguous(), products.contiguous()
    images, channels = products.shape[1:]
    dweight, dbias = torch.empty((2, channels), dtype=torch.float32)
    ready().norm_weight_grad(
        sums.data_ptr(), products.data_ptr(), dweight.data_ptr(), dbias.data_ptr(), images,
        channels, groups, checked_count(count, 1), int(grad.exponent), int(x.exponent),
        *number(eps), torch.get_num_threads(),
    )  # fmt: skip
    return dweight, dbias


def _frozen(
    x: FixedPoint,
    mean: Tensor | None,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    planar, var = to_planar(x.mantissa), flat(var)
    mean, weight, bias = flat(mean), flat(weight), flat(bias)
    out = torch.empty(planar.shape, dtype=torch.float32)
    top = ready().frozen_norm(
        planar.data_ptr(), pointer(mean), var.data_ptr(), pointer(weight), pointer(bias),
        out.data_ptr(), *planar.shape[:2], math.prod(planar.shape[2:]),
        planar.dtype == torch.int16, x.bits, int(x.exponent), *number(eps),
        torch.get_num_threads(),
    )  # fmt: skip
    remember_magnitude(out, check_finite(top))
    return out


_norms = Norms(_norm, _norm_grad, _norm_weight_grad, _frozen)
batch_norm = _norms.batch_norm
batch_norm_grad = _norms.batch_norm_grad
batch_norm_weight_grad = _norms.batch_norm_weight_grad
frozen_norm = _norms.frozen_norm
frozen_norm_grad = _norms.frozen_norm_grad
group_norm = _norms.group_norm
group_norm_grad = _norms.group_norm_grad
