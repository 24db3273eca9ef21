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
from ..running import Running
from ..source import Source
from .library import ready
from .operands import check_finite, planar_pair, to_planar, with_exponent, with_exponents
from .source import elements


def plane_sums(x: FixedPoint, joined: bool = False) -> Tensor:
    """As `Backend.plane_sums`."""
    planar = to_planar(x.mantissa)
    out = torch.empty((2, *planar.shape[:2]), dtype=torch.int64)
    ready().plane_sums(
        x=planar, out=out, planes=out.numel() // 2, pixels=math.prod(planar.shape[2:]),
        wide=planar.dtype == torch.int16, threads=torch.get_num_threads(),
    )  # fmt: skip
    return out.sum(1) if joined else out


def plane_products(grad: FixedPoint, x: FixedPoint, joined: bool = False) -> Tensor:
    """As `Backend.plane_products`."""
    left, right, wide = planar_pair(grad, x)
    out = torch.empty((2, *left.shape[:2]), dtype=torch.int64)
    ready().plane_products(
        grad=left, x=right, out=out, planes=out.numel() // 2, pixels=math.prod(left.shape[2:]),
        wide=wide, threads=torch.get_num_threads(),
    )  # fmt: skip
    return out.sum(1) if joined else out


def update_running(
    mean: Tensor, var: Tensor, x: FixedPoint, sums: Tensor, count: int, momentum: float
) -> None:
    """As `Backend.update_running`."""
    new_mean, new_var = mean.detach().clone(), var.detach().clone()
    check_finite(ready().update_running(
        mean=new_mean, var=new_var, sums=sums.contiguous(), channels=len(mean),
        count=checked_count(count, 2), **with_exponents('exponent', x),
        **with_exponent('momentum', scalar(momentum)), threads=torch.get_num_threads(),
    ))  # fmt: skip
    mean.copy_(new_mean)
    var.copy_(new_var)


def frozen_norm_weight_grad(
    grad: FixedPoint, x: FixedPoint, products: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """As `Backend.frozen_norm_weight_grad`."""
    products, mean, var = products.contiguous(), flat(mean), flat(var)
    out = torch.empty(len(var), dtype=torch.float32)
    check_finite(ready().frozen_norm_weight_grad(
        products=products, mean=mean, var=var, dweight=out, channels=len(var),
        **with_exponents('grad_exponent', grad), **with_exponents('exponent', x),
        **with_exponent('eps', number(eps)), threads=torch.get_num_threads(),
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
    running: Running | None,
) -> Source:
    if running is not None:
        update_running(running.mean, running.var, x, sums, count, running.momentum)
        if running.batches is not None:
            running.batches.add_(1)
    sums, weight, bias = sums.contiguous(), flat(weight), flat(bias)
    images, channels = x.mantissa.shape[:2]
    made = _coefficients(x, groups)
    check_finite(ready().norm(
        sums=sums, weight=weight, bias=bias, coefficients=made, images=images, channels=channels,
        groups=groups, count=checked_count(count, 1), bits=x.bits,
        **with_exponents('exponent', x), **with_exponent('eps', number(eps)),
        threads=torch.get_num_threads(),
    ))  # fmt: skip
    return Source(x, made)


def _norm_grad(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    own: Tensor,
    groups: int,
    count: int,
    weight: Tensor | None,
    eps: float,
) -> tuple[Source, Tensor, Tensor]:
    sums, products, weight = sums.contiguous(), products.contiguous(), flat(weight)
    made = _coefficients(x, groups)
    images, channels = x.mantissa.shape[:2]
    check_finite(ready().norm_grad(
        sums=sums, products=products, weight=weight, coefficients=made, images=images,
        channels=channels, groups=groups, count=checked_count(count, 1), grad_bits=grad.bits,
        bits=x.bits, **with_exponents('grad_exponent', grad), **with_exponents('exponent', x),
        **with_exponent('eps', number(eps)), threads=torch.get_num_threads(),
    ))  # fmt: skip
    return Source(grad, made, x), *_norm_weight_grad(grad, x, sums, own, groups, count, eps)


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
        sums=sums, products=products, dweight=dweight, dbias=dbias, images=images,
        channels=channels, groups=groups, count=checked_count(count, 1),
        **with_exponents('grad_exponent', grad), **with_exponents('exponent', x),
        **with_exponent('eps', number(eps)), threads=torch.get_num_threads(),
    )  # fmt: skip
    return dweight, dbias


def _frozen(
    x: FixedPoint,
    mean: Tensor | None,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Source:
    mean, var, weight, bias = flat(mean), flat(var), flat(weight), flat(bias)
    made = torch.empty((len(var), 4), dtype=torch.int64)
    check_finite(ready().frozen_norm(
        mean=mean, var=var, weight=weight, bias=bias, coefficients=made, channels=len(var),
        bits=x.bits, **with_exponents('exponent', x), **with_exponent('eps', number(eps)),
    ))  # fmt: skip
    return Source(x, made)


def _coefficients(x: FixedPoint, groups: int) -> Tensor:
    """Memory for those of each channel of ``x``, or of each plane where images have groups."""
    images, channels = x.mantissa.shape[:2]
    return torch.empty((images * channels if groups else channels, 4), dtype=torch.int64)


_norms = Norms(_norm, _norm_grad, _frozen, elements)
batch_norm = _norms.batch_norm
batch_norm_source = _norms.batch_norm_source
batch_norm_grad = _norms.batch_norm_grad
batch_norm_grad_source = _norms.batch_norm_grad_source
frozen_norm = _norms.frozen_norm
frozen_norm_source = _norms.frozen_norm_source
frozen_norm_grad = _norms.frozen_norm_grad
frozen_norm_grad_source = _norms.frozen_norm_grad_source
group_norm = _norms.group_norm
group_norm_source = _norms.group_norm_source
group_norm_grad = _norms.group_norm_grad
group_norm_grad_source = _norms.group_norm_grad_source
