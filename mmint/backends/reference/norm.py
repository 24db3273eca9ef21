"""Batch, group and layer norm in integers: paper section 3.4.

**Statistics.** Sums of mantissas X and of their squares, S1 and S2, are exact integers. Of a group
of n elements at exponent e, ``V = n * S2 - S1**2`` is exact too, and

    mean = S1 / n * 2**e      var = V / n**2 * 2**(2 e)      rstd = 1 / sqrt(var + eps)

are `wide` numbers; the relative error of rstd is below 2**-28. What the mapping adds is the paper's
equation (5): stochastic rounding leaves the mean unbiased and adds its own variance,

    E[var of X * 2**e] = var x + (1 - 1 / n) * mean(v),    v_i <= (2**e)**2 / 4

where v_i is the variance of element i's rounding; so do gradients computed from it.

**Elements.** Output and input gradient are ``a * X + b`` and ``p * G + q * X + r``, with integer
coefficients at the lowest exponent at which scales are at most 2**`SCALE_BITS`; then one rounding
to float32. Offsets are computed from the rounded scales: ``b = beta - round(a * S1 / n)``, and r
such that the gradient sums to at most n / 2 units over a group. So a scale's rounding error,
2**-`SCALE_BITS` of it at most, acts on ``X - S1 / n`` and not on X: together they stay below 2**-20
of what the largest mantissa would give (of beta, if that is more). For mantissas of ``bits`` bits
|a * X + b| and |p * G + q * X + r| stay below 2**(bits + 23), which is int32 for 8 bits: a scale
meets a difference below 2**bits (so 2**(bits + 22)), and the other scale or beta adds as much.

Batch and group norm see (N, C, ...) as planes (n, c); a group is a channel's planes in all images,
or an image's planes of several channels. Layer norm sees rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ...numerics import FixedPoint, NonFiniteError, scalar
from ...numerics.float32 import NOT_FINITE, fields, split_sign, to_float32
from ...numerics.integers import divide_even, shift_right_even
from ...numerics.wide import (
    LOWEST,
    Wide,
    add,
    divide,
    from_float,
    from_integers,
    from_number,
    multiply,
    narrow,
    rsqrt,
    to_float,
    to_integers,
    top_exponent,
)
from ..host.checks import checked_count
from ..host.norm import LAYER_WEIGHT_BITS, NORMALISED_BITS, group_size
from .mapping import quantize, quantize_at

SCALE_BITS = 22
LAYER_SHIFT_BITS = 30  # magnitude of layer norm's bias


def plane_sums(x: FixedPoint) -> Tensor:
    """Sums of ``x`` (N, C, ...) and of its squares over each plane: int64 (2, N, C), exact."""
    planes = _planes(x)
    return torch.stack([planes.sum(2), planes.square().sum(2)])


def plane_products(grad: FixedPoint, x: FixedPoint) -> Tensor:
    """Sums of ``grad`` and of ``grad * x`` over each plane: int64 (2, N, C), exact."""
    planes = _planes(grad)
    return torch.stack([planes.sum(2), (planes * _planes(x)).sum(2)])


def batch_norm(
    x: FixedPoint,
    sums: Tensor,
    count: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Batch norm of ``x`` (N, C, ...) with the statistics of the batch, as float32.

    Args:
        sums: int64 (2, C): `plane_sums` summed over images, and over processes.
        count: how many elements of a channel were summed.
        weight, bias: float32 (C,), or None for 1 and 0.

    Raises:
        NonFiniteError: if ``weight`` or ``bias`` is infinite or not a number.
    """
    rstd = _rstd(sums, count, x, eps)
    channels = x.mantissa.shape[1]
    scale = multiply(_parameter(weight, 1, channels, x), rstd)
    offset = _parameter(bias, 0, channels, x)
    a, b, exponent = _forward_coefficients(scale, offset, sums, count, x)
    return _affine(x, a[None], b[None], exponent[None])


def batch_norm_grad(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    count: int,
    weight: Tensor | None,
    eps: float,
) -> Tensor:
    """Gradient of `batch_norm` for its input, of its shape, as float32.

    Args:
        products: int64 (2, C): `plane_products` summed over images, and over processes.
    """
    rstd = _rstd(sums, count, x, eps)
    scale = multiply(_parameter(weight, 1, x.mantissa.shape[1], x), rstd)
    p, q, r, exponent = _backward_coefficients(
        scale[:, None], rstd, sums, products[:, :, None], count, grad, x
    )
    return _bilinear(grad, x, p.t(), q[None], r[None], exponent[None])


def batch_norm_weight_grad(
    grad: FixedPoint, x: FixedPoint, sums: Tensor, products: Tensor, count: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of `batch_norm` for weight and bias, float32 (C,).

    Args:
        grad, x: what was summed; only their exponents count.
        products: as for `batch_norm_grad`, but of this process's images alone.
    """
    rstd = _rstd(sums, count, x, eps)
    dweight = _slope(sums[0], products, count, rstd)
    exponent = int(grad.exponent) + int(x.exponent)
    return to_float(dweight.shifted(exponent)), to_float32(products[0], grad.exponent)


def update_running(
    mean: Tensor, var: Tensor, x: FixedPoint, sums: Tensor, count: int, momentum: float
) -> None:
    """Moves float32 ``mean`` and ``var`` (C,) towards the batch's, in place, to nearest.

    ``new = old + momentum * (batch - old)``, with ``momentum`` as a scalar of 16 bits; the
    variance is the unbiased one, ``V / (n * (n - 1))``.

    Args:
        x: what was summed; only its exponent counts.
        count: at least 2.

    Raises:
        NonFiniteError: if ``mean`` or ``var`` is infinite or not a number.
    """
    exponent, device = int(x.exponent), sums.device
    divisors = from_integers([checked_count(count, 2), count * (count - 1)], device)
    batch_mean = divide(narrow(sums[0], 0), divisors[0]).shifted(exponent)
    batch_var = divide(_scatter(sums, count), divisors[1]).shifted(2 * exponent)
    mantissa, power = scalar(momentum)
    factor = from_integers([mantissa], device).shifted(power)
    for running, batch in ((mean, batch_mean), (var, batch_var)):
        old = from_float(running)
        running.copy_(to_float(add(old, multiply(factor, add(batch, -old)))))


def frozen_norm(
    x: FixedPoint,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Batch norm of ``x`` (N, C, ...) with float32 statistics ``mean``, ``var`` (C,), as float32.

    Raises:
        NonFiniteError: if a parameter or statistic is infinite or not a number, or ``var + eps``
            not positive.
    """
    rstd = _frozen_rstd(var, eps)
    scale = multiply(_parameter(weight, 1, len(var), x), rstd)
    offset = add(_parameter(bias, 0, len(var), x), -multiply(from_float(mean), scale))
    scale = scale.shifted(int(x.exponent))
    exponent = _shared(top_exponent(scale, SCALE_BITS), top_exponent(offset, SCALE_BITS + x.bits))
    a, b = to_integers(scale, exponent), to_integers(offset, exponent)
    return _affine(x, a[None], b[None], exponent[None])


def frozen_norm_grad(grad: FixedPoint, var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Gradient of `frozen_norm` for its input, of the shape of ``grad``, as float32."""
    rstd = _frozen_rstd(var, eps)
    scale = multiply(_parameter(weight, 1, len(var), grad), rstd).shifted(int(grad.exponent))
    exponent = _shared(top_exponent(scale, SCALE_BITS))
    p = to_integers(scale, exponent)
    return _affine(grad, p[None], torch.zeros_like(p)[None], exponent[None])


def frozen_norm_weight_grad(
    grad: FixedPoint, x: FixedPoint, products: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """Gradient of `frozen_norm` for its weight, float32 (C,); the bias has `channel_sum`.

    Args:
        grad, x: what was summed; only their exponents count.
        products: int64 (2, C): `plane_products` summed over images.
    """
    total = narrow(products[1], 0).shifted(int(x.exponent))
    centred = add(total, -multiply(from_float(mean), narrow(products[0], 0)))
    return to_float(multiply(centred, _frozen_rstd(var, eps)).shifted(int(grad.exponent)))


def group_norm(
    x: FixedPoint, sums: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Group norm of ``x`` (N, C, ...) as float32.

    Args:
        sums: int64 (2, N, groups): `plane_sums` summed over the channels of each group.
        weight, bias: float32 (C,), or None for 1 and 0.

    Raises:
        NonFiniteError: if ``weight`` or ``bias`` is infinite or not a number.
    """
    groups, channels = sums.shape[2], x.mantissa.shape[1]
    count = group_size(x, sums)
    rstd = _rstd(sums, count, x, eps)[..., None]
    scale = multiply(_parameter(weight, 1, channels, x).view(groups, -1), rstd)
    offset = _parameter(bias, 0, channels, x).view(groups, -1)
    a, b, exponent = _forward_coefficients(scale, offset, sums[..., None], count, x)
    return _affine(x, a.flatten(1), b.flatten(1), exponent.flatten(1))


def group_norm_grad(
    grad: FixedPoint,
    x: FixedPoint,
    sums: Tensor,
    products: Tensor,
    weight: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `group_norm` for input, weight and bias, as float32.

    Images add to the weight's gradient one after another, as wide numbers.

    Args:
        products: int64 (2, N, C): `plane_products`.
    """
    (images, groups), channels = sums.shape[1:], x.mantissa.shape[1]
    count, members = group_size(x, sums), channels // groups
    rstd = _rstd(sums, count, x, eps)
    scale = multiply(_parameter(weight, 1, channels, x).view(groups, members), rstd[..., None])
    products = products.view(2, images, groups, members)
    p, q, r, exponent = _backward_coefficients(
        scale.view(images * groups, members),
        rstd.view(images * groups),
        sums.flatten(1),
        products.flatten(1, 2),
        count,
        grad,
        x,
    )
    groupwise = (v[:, None].expand_as(p) for v in (q, r, exponent))
    dx = _bilinear(grad, x, *(v.reshape(images, channels) for v in (p, *groupwise)))
    slopes = _slope(sums[0, ..., None], products, count, rstd[..., None]).view(images, channels)
    total = products[0].sum(0).flatten()
    dweight = narrow(torch.zeros_like(total), 0)
    for i in range(images):
        dweight = add(dweight, slopes[i])
    dweight = dweight.shifted(int(grad.exponent) + int(x.exponent))
    return dx, to_float(dweight), to_float32(total, grad.exponent)


def layer_norm(
    x: FixedPoint, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Layer norm of the rows of ``x`` (R, D) as float32, and their sums, int64 (2, R).

    The normalised elements are rounded to 15 bits below ``2**ceil(log2(D) / 2)``, the weight to 16
    bits, so that their product is below 2**30 and with the bias int32; the bias is rounded, to
    nearest, at the product's exponent or at the lowest at which it is below 2**30, if that is
    higher. Half a unit of each is what they add to the error.

    Args:
        weight, bias: float32 (D,), or None for 1 and 0.

    Raises:
        NonFiniteError: if ``weight`` or ``bias`` is infinite or not a number.
    """
    rows = x.mantissa.to(torch.int64)
    sums = torch.stack([rows.sum(1), rows.square().sum(1)])
    normalised, normalised_exponent = _normalise_rows(x, sums, _rstd(sums, rows.shape[1], x, eps))
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
    """Gradients of `layer_norm` for input (R, D), weight and bias (D,), as float32.

    The input's is that of normalised rows for the incoming gradient times the weight, an exact
    product of ``bits + 14`` bits, so that ``p * t + q * x + r`` is below 2**(bits + 38).
    """
    size = x.mantissa.shape[1]
    rstd = _rstd(sums, size, x, eps)
    gamma = _layer_weight(weight, x)
    g, rows = grad.mantissa.to(torch.int64), x.mantissa.to(torch.int64)
    t = g * gamma.mantissa.to(torch.int64)
    products = torch.stack([t.sum(1), (t * rows).sum(1)])[..., None]
    scaled = FixedPoint(t, grad.exponent + gamma.exponent, grad.bits + LAYER_WEIGHT_BITS - 1)
    p, q, r, exponent = _backward_coefficients(rstd[:, None], rstd, sums, products, size, scaled, x)
    dx = to_float32(p * t + q[:, None] * rows + r[:, None], exponent[:, None])
    normalised, normalised_exponent = _normalise_rows(x, sums, rstd)
    dweight = to_float32((g * normalised).sum(0), int(grad.exponent) + normalised_exponent)
    return dx, dweight, to_float32(g.sum(0), grad.exponent)


def _planes(x: FixedPoint) -> Tensor:
    """``x`` (N, C, ...) as int64 (N, C, P)."""
    size = x.mantissa.shape
    return x.mantissa.to(torch.int64).reshape(*size[:2], size[2:].numel())


def _parameter(parameter: Tensor | None, default: int, channels: int, x: FixedPoint) -> Wide:
    """A parameter (C,), wide; ``default`` where it is None."""
    if parameter is not None:
        return from_float(parameter.detach())
    return from_integers([default] * channels, x.mantissa.device)


def _layer_weight(weight: Tensor | None, x: FixedPoint) -> FixedPoint:
    """Layer norm's weight, rounded to nearest."""
    if weight is None:
        weight = torch.ones(x.mantissa.shape[1], device=x.mantissa.device)
    return quantize(weight.detach(), LAYER_WEIGHT_BITS, None)


def _exactly(function: Callable[..., int], *operands: Tensor) -> tuple[list[int], torch.Size]:
    """``function`` of each element of int64 tensors, in Python's integers, and their shape."""
    operands = torch.broadcast_tensors(*operands)
    columns = [operand.flatten().tolist() for operand in operands]
    return [function(*row) for row in zip(*columns, strict=True)], operands[0].shape


def _scatter(sums: Tensor, count: int) -> Wide:
    """``V = n * S2 - S1**2`` of sums (2, ...)."""
    values, shape = _exactly(lambda s1, s2: count * s2 - s1 * s1, *sums)
    return from_integers(values, sums.device).view(shape)


def _rstd(sums: Tensor, count: int, x: FixedPoint, eps: float) -> Wide:
    """``1 / sqrt(var + eps)`` of sums (2, ...); ``eps`` is positive."""
    square = from_integers([checked_count(count, 1) ** 2], sums.device)[0]
    var = divide(_scatter(sums, count), square).shifted(2 * int(x.exponent))
    return rsqrt(add(var, from_number(eps, sums.device)))


def _frozen_rstd(var: Tensor, eps: float) -> Wide:
    total = add(from_float(var), from_number(eps, var.device))
    if (total.mantissa <= 0).any():
        raise NonFiniteError
    return rsqrt(total)


def _slope(s1: Tensor, products: Tensor, count: int, rstd: Wide) -> Wide:
    """``rstd * (n * H2 - S1 * H1) / n``, for mantissas: sum of the gradient times normalised X."""
    values, shape = _exactly(lambda s, h1, h2: count * h2 - s * h1, s1, *products)
    total = from_integers(values, s1.device).view(shape)
    return multiply(divide(total, from_integers([count], s1.device)[0]), rstd)


def _shared(*exponents: Tensor) -> Tensor:
    """The highest, 0 where all belong to zeros."""
    highest = functools.reduce(torch.maximum, exponents)
    return torch.where(highest == LOWEST, 0, highest)


def _forward_coefficients(
    scale: Wide, offset: Wide, sums: Tensor, count: int, x: FixedPoint
) -> tuple[Tensor, Tensor, Tensor]:
    """a, b and their exponent such that ``a * X + b`` is ``scale * (x - mean) + offset``.

    Where a group is constant, V = 0, its scale counts as 0, so that nothing but the offset chooses
    the exponent.
    """
    constant = _scatter(sums, count).mantissa == 0
    scale = Wide(torch.where(constant, 0, scale.mantissa), scale.exponent + int(x.exponent))
    exponent = _shared(top_exponent(scale, SCALE_BITS), top_exponent(offset, SCALE_BITS + x.bits))
    a = to_integers(scale, exponent)
    means, shape = _exactly(lambda a, s: divide_even(a * s, count), a, sums[0])
    return a, to_integers(offset, exponent) - sums.new_tensor(means).view(shape), exponent


def _backward_coefficients(
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
    scale = scale.shifted(int(grad.exponent))
    highest = top_exponent(scale, SCALE_BITS).amax(1)
    p = to_integers(scale, highest[:, None])
    s1, h1, h2 = sums[0].tolist(), products[0].tolist(), products[1].tolist()
    covariances = [
        count * _dot(p_g, h2_g) - s1_g * _dot(p_g, h1_g)
        for p_g, s1_g, h1_g, h2_g in zip(p.tolist(), s1, h1, h2, strict=True)
    ]
    q = divide(from_integers(covariances, device), from_integers([count * count], device)[0])
    q = -multiply(multiply(q, rstd), rstd)
    q = Wide(q.mantissa, q.exponent + highest).shifted(2 * int(x.exponent))
    exponent = _shared(highest, top_exponent(q, SCALE_BITS + grad.bits - x.bits))
    p, q = to_integers(scale, exponent[:, None]), to_integers(q, exponent)
    means = [
        divide_even(_dot(p_g, h1_g) + q_g * s1_g, count)
        for p_g, q_g, s1_g, h1_g in zip(p.tolist(), q.tolist(), s1, h1, strict=True)
    ]
    return p, q, -sums.new_tensor(means), exponent


def _dot(a: list[int], b: list[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _affine(x: FixedPoint, a: Tensor, b: Tensor, exponent: Tensor) -> Tensor:
    """``a * X + b`` as float32 of the shape of ``x``; coefficients (N or 1, C)."""
    total = a[..., None] * _planes(x) + b[..., None]
    return _to_float(total, exponent, x)


def _bilinear(
    grad: FixedPoint, x: FixedPoint, p: Tensor, q: Tensor, r: Tensor, exponent: Tensor
) -> Tensor:
    """``p * G + q * X + r`` as float32 of the shape of ``x``; coefficients (N or 1, C)."""
    total = p[..., None] * _planes(grad) + q[..., None] * _planes(x) + r[..., None]
    return _to_float(total, exponent, x)


def _to_float(total: Tensor, exponent: Tensor, x: FixedPoint) -> Tensor:
    """Planes, each with its exponent, as float32 of the shape of ``x``."""
    shape = x.mantissa.shape
    return to_float32(total.view(shape), exponent.view(*exponent.shape, *(1,) * (len(shape) - 2)))


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
    a, b, exponent = _forward_coefficients(rstd, zero, sums, size, x)
    total = a[:, None] * x.mantissa.to(torch.int64) + b[:, None]
    out_exponent = ((size - 1).bit_length() + 1) // 2 - NORMALISED_BITS
    limit = 2**NORMALISED_BITS - 1
    shift = (out_exponent - exponent).clamp(min=0)
    return _shift_even(total, shift[:, None]).clamp(-limit, limit), out_exponent


def _shift_even(integer: Tensor, shift: Tensor) -> Tensor:
    """``integer / 2**shift``, to nearest, ties to even."""
    return integer.sign() * shift_right_even(integer.abs(), shift)
