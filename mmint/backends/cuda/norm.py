"""Batch and group norm: arguments of the kernels in norm.cu."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ...numerics import FixedPoint, scalar
from ...numerics.wide import number
from ..host.arguments import flat, pair
from ..host.checks import checked_count
from ..host.exponents import by_group
from ..host.norm import Norms
from ..running import Running
from ..source import Source
from . import finite
from .launch import THREADS, launch
from .launcher import Argument
from .source import channels_last, elements
from .zeroed import zeros

TILE_CHANNELS, PART_PIXELS = 32, 256
COEFFICIENTS = 4  # int64 words


def plane_sums(x: FixedPoint, joined: bool = False) -> Tensor:
    """As `Backend.plane_sums`."""
    return plane_products(x, x, joined)


def plane_products(grad: FixedPoint, x: FixedPoint, joined: bool = False) -> Tensor:
    """As `Backend.plane_products`."""
    left, right, _ = pair(grad, x)
    images, channels = left.shape[:2]
    alike = right is left
    left = channels_last(left)
    right = left if alike else channels_last(right)
    pixels = left.shape[1]
    shape = (2, channels) if joined else (2, images, channels)
    out = zeros(shape, torch.int64, left.device)
    if left.numel():
        blocks = images * -(-channels // TILE_CHANNELS) * -(-pixels // PART_PIXELS)
        launch(
            'norm.cu', f'plane_sums_{8 * left.element_size()}', blocks, THREADS,
            [left, right, out, images, pixels, channels, int(joined)], left.device,
        )  # fmt: skip
    return out


def update_running(
    mean: Tensor, var: Tensor, x: FixedPoint, sums: Tensor, count: int, momentum: float
) -> None:
    """As `Backend.update_running`."""
    with _moving(Running(mean, var, momentum)) as moved:
        _each(
            'update_running', len(mean),
            [statistics(x, sums, checked_count(count, 2)), moved, failure(sums.device)],
            sums.device,
        )  # fmt: skip


@contextmanager
def _moving(running: Running | None) -> Iterator[tuple[Argument, ...]]:
    """The struct ``running`` of norm.cu; afterwards statistics with gaps get what it holds."""
    if running is None:
        yield None, None, None, 0, 0
        return
    given = running.mean, running.var
    moved = [flat(statistic) for statistic in given]
    yield *moved, running.batches, *scalar(running.momentum)
    for statistic, new in zip(given, moved, strict=True):
        if statistic.data_ptr() != new.data_ptr():
            statistic.copy_(new)


def frozen_norm_weight_grad(
    grad: FixedPoint, x: FixedPoint, products: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """As `Backend.frozen_norm_weight_grad`."""
    out = torch.empty(len(var), dtype=torch.float32, device=var.device)
    _each(
        'frozen_weight_grad', len(var),
        [by_group(grad), by_group(x), products.contiguous(), flat(mean), flat(var), out,
         len(var), *number(eps), failure(var.device)],
        var.device,
    )  # fmt: skip
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
    channels, device = x.mantissa.shape[1], sums.device
    groups = groups or channels
    made = _coefficients(sums, groups, channels)
    count = checked_count(count, 1 if running is None else 2)
    with _moving(running) as moved:
        _each(
            'norm_coefficients', len(made),
            [statistics(x, sums, count, eps), flat(weight), flat(bias), made, channels,
             channels // groups, x.bits, moved, failure(device)],
            device,
        )  # fmt: skip
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
    (images, channels), device = own.shape[1:], sums.device
    groups = groups or channels
    made = _coefficients(sums, groups, channels)
    dweight, dbias = torch.empty((2, channels), dtype=torch.float32, device=device)
    _each(
        'norm_grads', max(sums[0].numel(), channels),
        [statistics(x, sums, checked_count(count, 1), eps), by_group(grad), products.contiguous(),
         own.contiguous(), flat(weight), made, dweight, dbias, images, channels,
         channels // groups, grad.bits - x.bits, failure(device)],
        device,
    )  # fmt: skip
    return Source(grad, made, x), dweight, dbias


def _frozen(
    x: FixedPoint,
    mean: Tensor | None,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Source:
    device = var.device
    made = torch.empty((len(var), COEFFICIENTS), dtype=torch.int64, device=device)
    _each(
        'frozen_coefficients', len(var),
        [by_group(x), flat(mean), flat(var), flat(weight), flat(bias), made,
         len(var), x.bits, *number(eps), failure(device)],
        device,
    )  # fmt: skip
    return Source(x, made)


def _each(name: str, groups: int, arguments: Sequence[Argument], device: torch.device) -> None:
    """Launches a kernel that has a thread for each group or channel."""
    if groups:
        launch('norm.cu', name, -(-groups // THREADS), THREADS, arguments, device)


def _coefficients(sums: Tensor, groups: int, channels: int) -> Tensor:
    """Memory for those of each plane of ``sums`` (2, ..., groups)."""
    planes = sums[0].numel() // groups * channels
    return torch.empty((planes, COEFFICIENTS), dtype=torch.int64, device=sums.device)


def statistics(x: FixedPoint, sums: Tensor, count: int, eps: float = 0) -> tuple[Argument, ...]:
    """The struct ``statistics`` of coefficients.cuh; ``eps`` counts where it is asked for rstd."""
    return sums.contiguous(), *by_group(x), sums[0].numel(), count, *number(eps)


def failure(device: torch.device) -> tuple[Argument, ...]:
    """The struct ``failure`` of device.cuh, for one call."""
    return finite.flag(device), finite.number(device)


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
