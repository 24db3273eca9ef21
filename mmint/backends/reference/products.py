"""Convolution and matrix products of integers: paper section 3.3.

Every product sum is exact: ``K`` products of ``bits``-wide mantissas stay below
``K * (2**(bits - 1) - 1)**2``, and what float64 carries is kept below 2**53.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...numerics import FixedPoint, NonFiniteError, RandomBits
from ...numerics.float32 import NOT_FINITE, fields, split_sign
from ...numerics.integers import shift_right_even
from ..geometry import Geometry
from ..host.checks import check_matrices
from .mapping import dequantize, quantize_at


def conv2d(
    x: FixedPoint,
    weight: FixedPoint,
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `Backend.conv2d`."""
    _check_sum(weight.mantissa[0].numel(), x, weight)
    total = F.conv2d(_wide(x), _wide(weight), None, *geometry)
    return _finish(total, _of_channels(total, 1, x, weight), bias, random, channel_dim=1)


def conv2d_input_grad(
    grad: FixedPoint,
    weight: FixedPoint,
    input_size: tuple[int, int, int, int],
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `Backend.conv2d_input_grad`."""
    _check_sum(weight.mantissa[:, 0].numel(), grad, weight)
    x = _empty(input_size, grad)
    total = _backward(grad, x, _wide(weight), geometry, (True, False))
    return _finish(total, _of_channels(total, 1, grad, weight), bias, random, channel_dim=1)


def conv2d_weight_grad(
    grad: FixedPoint,
    x: FixedPoint,
    weight_size: tuple[int, int, int, int],
    geometry: Geometry,
) -> Tensor:
    """As `Backend.conv2d_weight_grad`."""
    total = torch.zeros(weight_size, dtype=torch.int64, device=grad.mantissa.device)
    weight = _empty(weight_size, grad)
    for i in range(len(grad.mantissa)):  # image by image: the sum over a batch may pass 2**53
        one_grad = grad._replace(mantissa=grad.mantissa[i : i + 1])
        one_x = x._replace(mantissa=x.mantissa[i : i + 1])
        _check_sum(one_grad.mantissa[0, 0].numel(), grad, x)
        sums = _backward(one_grad, _wide(one_x), weight, geometry, (False, True))
        total += sums.to(torch.int64)
    return dequantize(total, _of_channels(total, 0, grad, x))


def matmul(
    a: FixedPoint, b: FixedPoint, bias: Tensor | None = None, random: RandomBits | None = None
) -> Tensor:
    """As `Backend.matmul`."""
    check_matrices(a, b)
    _check_sum(a.mantissa.shape[-1], a, b)
    exponent = a.exponent.to(torch.int64) + b.exponent
    return _finish(_wide(a) @ _wide(b), exponent, bias, random, channel_dim=-1)


def channel_sum(grad: FixedPoint, channel_dim: int) -> Tensor:
    """As `Backend.channel_sum`."""
    dims = [d for d in range(grad.mantissa.dim()) if d != channel_dim % grad.mantissa.dim()]
    total = grad.mantissa.sum(dims, dtype=torch.int64) if dims else grad.mantissa
    exponents = grad.exponents()
    return dequantize(total, exponents.flatten() if exponents.dim() else exponents)


def _wide(x: FixedPoint) -> Tensor:
    return x.mantissa.to(torch.float64)


def _of_channels(total: Tensor, dim: int, a: FixedPoint, b: FixedPoint) -> Tensor:
    """The exponent of sums of products, of each channel (dimension ``dim``) where groups differ."""
    exponent = a.exponent.flatten().to(torch.int64) + b.exponent.flatten()
    if len(exponent) == 1:
        return exponent.squeeze(0)
    shape = [1] * total.dim()
    shape[dim] = -1
    return exponent.repeat_interleave(total.shape[dim] // len(exponent)).view(shape)


def _check_sum(length: int, a: FixedPoint, b: FixedPoint) -> None:
    if length << (a.bits - 1 + b.bits - 1) > 2**53:
        raise ValueError(
            f'a sum of {length} products of {a.bits}- and {b.bits}-bit mantissas was asked for, '
            'more than the reference backend carries exactly: use fewer bits or smaller images'
        )


def _empty(size: tuple[int, ...], like: FixedPoint) -> Tensor:
    """A tensor of which PyTorch reads the size only."""
    return torch.empty(1, dtype=torch.float64, device=like.mantissa.device).expand(size)


def _backward(
    grad: FixedPoint, x: Tensor, weight: Tensor, geometry: Geometry, wants: tuple[bool, bool]
) -> Tensor:
    """The gradient for the input or for the weight, whichever of both ``wants`` says."""
    stride, padding, dilation, groups = geometry
    grads = torch.ops.aten.convolution_backward(
        _wide(grad), x, weight, None, stride, padding, dilation, False, (0, 0), groups,
        (*wants, False),
    )  # fmt: skip
    return grads[wants.index(True)]


def _finish(
    total: Tensor,
    exponent: Tensor,
    bias: Tensor | None,
    random: RandomBits | None,
    channel_dim: int,
) -> Tensor:
    """Adds the bias to integer sums carried by float64, and maps back to float32.

    Where the bias would need more than 62 bits at the sums' exponent, both are aligned at the
    lowest exponent at which it does not. Where all sums are zero, the result is the bias.
    """
    total = total.to(torch.int64)
    if bias is None:
        return dequantize(total, exponent)
    shape = [1] * total.dim()
    shape[channel_dim] = -1
    field, _ = fields(split_sign(bias)[1].max())
    if field == NOT_FINITE:
        raise NonFiniteError
    if not total.any():
        return bias.detach().view(shape).expand(total.shape).clone()
    excess = (field.clamp(min=1) - 150 - exponent + 24 - 62).clamp(min=0)
    total = total.sign() * shift_right_even(total.abs(), excess)
    exponent = exponent + excess
    rounded = quantize_at(bias, exponent.flatten() if exponent.dim() else exponent, random)
    return dequantize(total + rounded.view(shape), exponent)
