"""Batch and group norm: arguments of the kernels in norm.cu."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...numerics import FixedPoint
from ..magnitudes import remember_magnitude
from ..reference.norm import checked_count, group_size
from ..reference.sgd import scalar
from ..reference.wide import number
from . import finite
from .launcher import Argument
from .mapping import THREADS, run

TILE_CHANNELS, TILE_PIXELS, PART_PIXELS = 32, 128, 256
COEFFICIENTS = 4  # int64 words


def plane_sums(x: FixedPoint) -> Tensor:
    """As `mmint.backends.reference.plane_sums`."""
    return plane_products(x, x)


def plane_products(grad: FixedPoint, x: FixedPoint) -> Tensor:
    """As `mmint.backends.reference.plane_products`."""
    left, right = same_width(grad.mantissa, x.mantissa)
    images, channels = left.shape[:2]
    alike = right is left
    left = _channels_last(left)
    right = left if alike else _channels_last(right)
    pixels = left.shape[1]
    out = torch.zeros((2, images, channels), dtype=torch.int64, device=left.device)
    if left.numel():
        blocks = images * -(-channels // TILE_CHANNELS) * -(-pixels // PART_PIXELS)
        run(
            'norm.cu', f'plane_sums_{8 * left.element_size()}', blocks, THREADS,
            [left, right, out, images, pixels, channels], left.device,
        )  # fmt: skip
    return out


def batch_norm(
    x: FixedPoint,
    sums: Tensor,
    count: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """As `mmint.backends.reference.batch_norm`, but `check` reports what is not finite."""
    return _norm(x, sums, x.mantissa.shape[1], count, weight, bias, eps)


def batch_norm_grad(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    count: int,
    weight: Tensor | None,
    eps: float,
) -> Tensor:
    """As `mmint.backends.reference.batch_norm_grad`."""
    return _norm_grad(grad, x, sums, products, x.mantissa.shape[1], count, weight, eps)


def batch_norm_weight_grad(
    grad: FixedPoint, x: FixedPoint, sums: Tensor, products: Tensor, count: int, eps: float
) -> tuple[Tensor, Tensor]:
    """As `mmint.backends.reference.batch_norm_weight_grad`."""
    return _norm_weight_grad(grad, x, sums, products[:, None], sums.shape[1], count, eps)


def update_running(
    mean: Tensor, var: Tensor, x: FixedPoint, sums: Tensor, count: int, momentum: float
) -> None:
    """As `mmint.backends.reference.update_running`, but `check` reports what is not finite.

    That then stays as it is.
    """
    new = [contiguous(statistic) for statistic in (mean, var)]
    _each(
        'update_running', len(mean),
        [statistics(x, sums, checked_count(count, 2)), *new, *scalar(momentum),
         failure(sums.device)],
        sums.device,
    )  # fmt: skip
    for statistic, moved in zip((mean, var), new, strict=True):
        if statistic.data_ptr() != moved.data_ptr():
            statistic.copy_(moved)


def frozen_norm(
    x: FixedPoint,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """As `mmint.backends.reference.frozen_norm`, but `check` reports what is not finite."""
    return _frozen(x, mean, var, weight, bias, eps)


def frozen_norm_grad(grad: FixedPoint, var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """As `mmint.backends.reference.frozen_norm_grad`."""
    return _frozen(grad, None, var, weight, None, eps)


def frozen_norm_weight_grad(
    grad: FixedPoint, x: FixedPoint, products: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """As `mmint.backends.reference.frozen_norm_weight_grad`."""
    out = torch.empty(len(var), dtype=torch.float32, device=var.device)
    _each(
        'frozen_weight_grad', len(var),
        [grad.exponent, x.exponent, products.contiguous(), contiguous(mean), contiguous(var), out,
         len(var), *number(eps), failure(var.device)],
        var.device,
    )  # fmt: skip
    return out


def group_norm(
    x: FixedPoint, sums: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """As `mmint.backends.reference.group_norm`, but `check` reports what is not finite."""
    return _norm(x, sums, sums.shape[2], group_size(x, sums), weight, bias, eps)


def group_norm_grad(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    weight: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `mmint.backends.reference.group_norm_grad`."""
    groups, count = sums.shape[2], group_size(x, sums)
    return (
        _norm_grad(grad, x, sums, products, groups, count, weight, eps),
        *_norm_weight_grad(grad, x, sums, products, groups, count, eps),
    )


def _norm(
    x: FixedPoint,
    sums: Tensor,
    groups: int,
    count: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    channels, device = x.mantissa.shape[1], sums.device
    made = _coefficients(sums, groups, channels)
    _each(
        'norm_coefficients', len(made),
        [statistics(x, sums, checked_count(count, 1), eps), contiguous(weight), contiguous(bias),
         made, channels, channels // groups, x.bits, failure(device)],
        device,
    )  # fmt: skip
    return _combine(x.mantissa, None, made, sums.dim() == 3)


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
    channels, device = x.mantissa.shape[1], sums.device
    made = _coefficients(sums, groups, channels)
    _each(
        'norm_grad_coefficients', sums[0].numel(),
        [statistics(x, sums, checked_count(count, 1), eps), grad.exponent, products.contiguous(),
         contiguous(weight), made, channels, channels // groups, grad.bits - x.bits,
         failure(device)],
        device,
    )  # fmt: skip
    return _combine(*same_width(grad.mantissa, x.mantissa), made, sums.dim() == 3)


def _norm_weight_grad(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    groups: int,
    count: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    images, channels = products.shape[1:]
    dweight, dbias = torch.empty((2, channels), dtype=torch.float32, device=sums.device)
    _each(
        'norm_weight_grad', channels,
        [statistics(x, sums, checked_count(count, 1), eps), grad.exponent, products.contiguous(),
         dweight, dbias, images, channels, channels // groups],
        sums.device,
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
    device = var.device
    made = torch.empty((len(var), COEFFICIENTS), dtype=torch.int64, device=device)
    _each(
        'frozen_coefficients', len(var),
        [x.exponent, contiguous(mean), contiguous(var), contiguous(weight), contiguous(bias), made,
         len(var), x.bits, *number(eps), failure(device)],
        device,
    )  # fmt: skip
    return _combine(x.mantissa, None, made, False)


def _combine(first: Tensor, second: Tensor | None, made: Tensor, per_image: bool) -> Tensor:
    """The elements, (N, C, ...) as ``first``, of coefficients for each plane or channel."""
    device = first.device
    out = torch.empty(first.shape, dtype=torch.float32, device=device)
    top = torch.zeros((), dtype=torch.int32, device=device)
    first, second = _channels_last(first), None if second is None else _channels_last(second)
    images, pixels, channels = first.shape
    if out.numel():
        run(
            'norm.cu', f'combine_{8 * first.element_size()}',
            images * -(-channels // TILE_CHANNELS) * -(-pixels // TILE_PIXELS), THREADS,
            [(first, second, out, made, images, pixels, channels, int(per_image), top)], device,
        )  # fmt: skip
    remember_magnitude(out, top)
    return out


def _each(name: str, groups: int, arguments: list[Argument], device: torch.device) -> None:
    """Launches a kernel that has a thread for each group or channel."""
    if groups:
        run('norm.cu', name, -(-groups // THREADS), THREADS, arguments, device)


def _coefficients(sums: Tensor, groups: int, channels: int) -> Tensor:
    """Memory for those of each plane of ``sums`` (2, ..., groups)."""
    planes = sums[0].numel() // groups * channels
    return torch.empty((planes, COEFFICIENTS), dtype=torch.int64, device=sums.device)


def _channels_last(mantissa: Tensor) -> Tensor:
    """(N, C, ...) as contiguous (N, P, C): a view of what `map_planes` mapped."""
    images, channels, *image = mantissa.shape
    last = mantissa.movedim(1, -1).reshape(images, math.prod(image), channels)
    return last.contiguous()


def statistics(x: FixedPoint, sums: Tensor, count: int, eps: float = 0) -> tuple[Argument, ...]:
    """The struct ``statistics`` of coefficients.cuh; ``eps`` counts where it is asked for rstd."""
    return sums.contiguous(), x.exponent, sums[0].numel(), count, *number(eps)


def failure(device: torch.device) -> tuple[Argument, ...]:
    """The struct ``failure`` of norm.cu, for one call."""
    return finite.flag(device), finite.number(device)


def contiguous(parameter: Tensor | None) -> Tensor | None:
    """A parameter for a kernel, which sees its values only."""
    return None if parameter is None else parameter.detach().contiguous()


def same_width(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Mantissas of the wider dtype of both."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)
