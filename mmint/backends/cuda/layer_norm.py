"""Layer norm: arguments of the kernels in layer_norm.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint
from ..host.arguments import flat, pair
from ..host.checks import checked_count
from ..host.norm import LAYER_WEIGHT_BITS, NORMALISED_BITS
from ..magnitudes import remember_magnitude
from . import finite
from .launch import THREADS, launch
from .launcher import Argument
from .mapping import dequantize, quantize
from .norm import COEFFICIENTS, statistics
from .zeroed import zeros

COLUMNS, PART_ROWS = 32, 256
AFFINE_BYTES = 16


def layer_norm(
    x: FixedPoint, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """As `Backend.layer_norm`."""
    mantissa = x.mantissa.contiguous()
    (rows, size), device = mantissa.shape, mantissa.device
    sums = torch.empty((2, rows), dtype=torch.int64, device=device)
    out = torch.empty((rows, size), dtype=torch.float32, device=device)
    top = zeros((), torch.int32, device)
    layer = _layer(x, mantissa, sums, weight, eps)
    if rows:
        affine = torch.empty(AFFINE_BYTES // 4 + size, dtype=torch.int32, device=device)
        launch(
            'layer_norm.cu', 'prepare_affine', 1, THREADS,
            [layer, flat(bias), affine, finite.flag(device), finite.number(device)], device,
        )  # fmt: skip
        name = f'layer_norm_{8 * mantissa.element_size()}'
        launch('layer_norm.cu', name, rows, THREADS, [layer, sums, affine, out, top], device)
    remember_magnitude(out, top)
    return out, sums


def layer_norm_grad(
    grad: FixedPoint, x: FixedPoint, sums: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `Backend.layer_norm_grad`."""
    left, right = (m.contiguous() for m in pair(grad, x)[:2])
    (rows, size), device = right.shape, right.device
    made = torch.empty((rows, COEFFICIENTS), dtype=torch.int64, device=device)
    dx = torch.empty((rows, size), dtype=torch.float32, device=device)
    top = zeros((), torch.int32, device)
    totals = zeros((2, size), torch.int64, device)
    layer, gradient = _layer(x, right, sums, weight, eps), (left, grad.exponent, grad.bits, made)
    if rows:
        width = 8 * right.element_size()
        name = f'layer_norm_grad_{width}'
        launch('layer_norm.cu', name, rows, THREADS, [layer, gradient, dx, top], device)
        blocks = -(-size // COLUMNS) * -(-rows // PART_ROWS)
        name = f'layer_weight_grad_{width}'
        launch('layer_norm.cu', name, blocks, THREADS, [layer, gradient, totals], device)
    remember_magnitude(dx, top)
    dweight = dequantize(totals[0], grad.exponent + _normalised_exponent(size))
    return dx, dweight, dequantize(totals[1], grad.exponent)


def _layer(
    x: FixedPoint, mantissa: Tensor, sums: Tensor, weight: Tensor | None, eps: float
) -> tuple[Argument, ...]:
    """The struct ``layer`` of layer_norm.cu."""
    rows, size = mantissa.shape
    if weight is None:
        weight = torch.ones(size, device=mantissa.device)
    gamma = quantize(weight, LAYER_WEIGHT_BITS, None)
    return (
        mantissa, gamma.mantissa, gamma.exponent, rows, size, x.bits, _normalised_exponent(size),
        statistics(x, sums, checked_count(size, 1), eps),
    )  # fmt: skip


def _normalised_exponent(size: int) -> int:
    """That at which ``2**ceil(log2(size) / 2)`` is ``2**NORMALISED_BITS``."""
    return ((size - 1).bit_length() + 1) // 2 - NORMALISED_BITS
