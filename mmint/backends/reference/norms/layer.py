"""Layer norm: statistics of rows, and mantissas of 15 bits for what they normalise."""

from __future__ import annotations

import torch
from torch import Tensor

from ....numerics import FixedPoint, NonFiniteError
from ....numerics.float32 import NOT_FINITE, fields, split_sign, to_float32
from ....numerics.integers import shift_right_even
from ....numerics.wide import LOWEST, Wide
from ...host.norm import LAYER_WEIGHT_BITS, NORMALISED_BITS
from ..mapping import quantize, quantize_at
from .coefficients import backward_coefficients, forward_coefficients
from .statistics import rstd_of

LAYER_SHIFT_BITS = 30  # magnitude of the bias


def layer_norm(
    x: FixedPoint, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """As `Backend.layer_norm`.

    The normalised elements are rounded to 15 bits below ``2**ceil(log2(D) / 2)``, the weight to 16
    bits, so that their product is below 2**30 and with the bias int32; the bias is rounded, to
    nearest, at the product's exponent or at the lowest at which it is below 2**30, if that is
    higher. Half a unit of each is what they add to the error.
    """
    rows = x.mantissa.to(torch.int64)
    sums = torch.stack([rows.sum(1), rows.square().sum(1)])
    normalised, normalised_exponent = _normalise_rows(x, sums, rstd_of(sums, rows.shape[1], x, eps))
    gamma = _layer_weight(weight, x)
    beta = torch.zeros_like(gamma.mantissa, dtype=torch.float32) if bias is None else bias.detach()
    field, _ = fields(split_sign(beta)[1].max())
    if field == NOT_FINITE:
        raise NonFiniteError
    product_exponent = int(gamma.exponent) + normalised_exponent
    exponent = product_exponent if gamma.mantissa.any() else LOWEST
    if beta.any():
        exponent = max(exponent, max(int(field), 1) - 126 - LAYER_SHIFT_BITS)
    exponent = exponent if exponent > LOWEST else 0
    product = normalised * gamma.mantissa.to(torch.int64)
    product = _shift_even(product, torch.tensor(exponent - product_exponent).clamp(min=0))
    return to_float32(product + quantize_at(beta, exponent, None), exponent), sums


def layer_norm_grad(
    grad: FixedPoint, x: FixedPoint, sums: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `Backend.layer_norm_grad`.

    The input's is that of normalised rows for the incoming gradient times the weight, an exact
    product of ``bits + 14`` bits, so that ``p * t + q * x + r`` is below 2**(bits + 38).
    """
    size = x.mantissa.shape[1]
    rstd = rstd_of(sums, size, x, eps)
    gamma = _layer_weight(weight, x)
    g, rows = grad.mantissa.to(torch.int64), x.mantissa.to(torch.int64)
    t = g * gamma.mantissa.to(torch.int64)
    products = torch.stack([t.sum(1), (t * rows).sum(1)])[..., None]
    scaled = FixedPoint(t, grad.exponent + gamma.exponent, grad.bits + LAYER_WEIGHT_BITS - 1)
    p, q, r, exponent = backward_coefficients(rstd[:, None], rstd, sums, products, size, scaled, x)
    dx = to_float32(p * t + q[:, None] * rows + r[:, None], exponent[:, None])
    normalised, normalised_exponent = _normalise_rows(x, sums, rstd)
    dweight = to_float32((g * normalised).sum(0), int(grad.exponent) + normalised_exponent)
    return dx, dweight, to_float32(g.sum(0), grad.exponent)


def _layer_weight(weight: Tensor | None, x: FixedPoint) -> FixedPoint:
    """Layer norm's weight, rounded to nearest."""
    if weight is None:
        weight = torch.ones(x.mantissa.shape[1], device=x.mantissa.device)
    return quantize(weight.detach(), LAYER_WEIGHT_BITS, None)


def _normalise_rows(x: FixedPoint, sums: Tensor, rstd: Wide) -> tuple[Tensor, int]:
    """Normalised rows (R, D) as integers of 15 bits, int64, and their exponent.

    No normalised element exceeds sqrt(D - 1), so the exponent is known from D alone: that at which
    ``2**ceil(log2(D) / 2)`` is 2**15. Rounding may exceed the range by one unit, where a row of
    more than 2**14 elements has a single one that differs; it is then cut.

    A row that is not constant has ``V >= D - 1``, so a is at least 2**5 times finer than that
    exponent; in a constant row ``a * X + b`` is 0.
    """
    size = x.mantissa.shape[1]
    zero = Wide(torch.zeros_like(rstd.mantissa), rstd.exponent)
    a, b, exponent = forward_coefficients(rstd, zero, sums, size, x)
    total = a[:, None] * x.mantissa.to(torch.int64) + b[:, None]
    out_exponent = ((size - 1).bit_length() + 1) // 2 - NORMALISED_BITS
    limit = 2**NORMALISED_BITS - 1
    shift = (out_exponent - exponent).clamp(min=0)
    return _shift_even(total, shift[:, None]).clamp(-limit, limit), out_exponent


def _shift_even(integer: Tensor, shift: Tensor) -> Tensor:
    """``integer / 2**shift``, to nearest, ties to even."""
    return integer.sign() * shift_right_even(integer.abs(), shift)
