"""Convolutions and matrix products: arguments of the kernels in conv.c and product.c."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits
from ..geometry import Geometry
from ..host.arguments import flat, pair
from ..host.checks import check_matrices
from ..magnitudes import remember_magnitude
from .library import ready
from .operands import check_finite, random_words, to_channels_last, to_planar


def conv2d(
    x: FixedPoint,
    weight: FixedPoint,
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `Backend.conv2d`."""
    shape = x.mantissa.shape
    filters, _, *kernel = weight.mantissa.shape
    size = geometry.output_size(shape[2:], kernel)
    out = torch.empty((shape[0], filters, *size), dtype=torch.float32)
    a, b, wide = pair(x, weight)
    sizes = _geometry(shape, b.shape, out.shape, geometry)
    a, b = _images(a, sizes), to_channels_last(b)

    bias, arguments = _bias(bias, random)
    result = ready().conv2d(
        x=a, weight=b, grad=None, out=out, **sizes,
        wide=wide, **_products(x, weight), **arguments,
    )  # fmt: skip
    return _finished(result, out, bias, 1)


def conv2d_input_grad(
    grad: FixedPoint,
    weight: FixedPoint,
    input_size: tuple[int, int, int, int],
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `Backend.conv2d_input_grad`."""
    out = torch.empty(tuple(input_size), dtype=torch.float32)
    g, b, wide = pair(grad, weight)
    sizes = _geometry(out.shape, b.shape, g.shape, geometry)
    g, b = _images(g, sizes), to_channels_last(b)

    bias, arguments = _bias(bias, random)
    result = ready().conv2d_input_grad(
        x=None, weight=b, grad=g, out=out, **sizes,
        wide=wide, **_products(grad, weight), **arguments,
    )  # fmt: skip
    return _finished(result, out, bias, 1)


def conv2d_weight_grad(
    grad: FixedPoint,
    x: FixedPoint,
    weight_size: tuple[int, int, int, int],
    geometry: Geometry,
) -> Tensor:
    """As `Backend.conv2d_weight_grad`."""
    out = torch.empty(tuple(weight_size), dtype=torch.float32)
    g, a, wide = pair(grad, x)
    sizes = _geometry(a.shape, out.shape, g.shape, geometry)
    g, a = _images(g, sizes), _images(a, sizes)
    ready().conv2d_weight_grad(
        x=a, weight=None, grad=g, out=out, **sizes,
        wide=wide, **_products(grad, x), **_bias(None, None)[1],
    )  # fmt: skip
    return out


def matmul(
    a: FixedPoint, b: FixedPoint, bias: Tensor | None = None, random: RandomBits | None = None
) -> Tensor:
    """As `Backend.matmul`."""
    check_matrices(a, b)
    left, right, wide = pair(a, b)
    *batch, m, k = left.shape
    n = right.shape[-1]
    left, right = _matrices(left), _matrices(right)
    out = torch.empty((*batch, m, n), dtype=torch.float32)

    a_batch, a_row, a_column = (0, *left.stride())[-3:]
    b_batch, b_row, b_column = (0, *right.stride())[-3:]
    bias, arguments = _bias(bias, random)
    result = ready().matmul(
        a=left, b=right, out=out, batch=(1, *left.shape)[-3], m=m, k=k, n=n,
        a_batch=a_batch, a_row=a_row, a_column=a_column,
        b_batch=b_batch, b_row=b_row, b_column=b_column,
        each_column=int(b.exponent.dim() == 2 and b.exponent.numel() > 1),
        wide=wide, **_products(a, b), **arguments,
    )  # fmt: skip
    return _finished(result, out, bias, -1)


def _matrices(mantissa: Tensor) -> Tensor:
    """At most one leading dimension, and rows or columns whose elements are side by side."""
    if mantissa.dim() > 3:
        mantissa = mantissa.flatten(0, -3)
    return mantissa if 1 in mantissa.stride()[-2:] else mantissa.contiguous()


def _images(mantissa: Tensor, sizes: dict[str, int]) -> Tensor:
    """As a convolution of these sizes reads them."""
    return to_planar(mantissa) if sizes['depthwise'] else to_channels_last(mantissa)


def _geometry(
    x: tuple[int, ...], weight: tuple[int, ...], out: tuple[int, ...], geometry: Geometry
) -> dict[str, int]:
    (n, c, h, w), (o, _, kernel_h, kernel_w), (_, _, out_h, out_w) = x, weight, out
    (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), groups = geometry
    return {
        'n': n, 'c': c, 'h': h, 'w': w, 'o': o, 'kernel_h': kernel_h, 'kernel_w': kernel_w,
        'out_h': out_h, 'out_w': out_w, 'stride_h': stride_h, 'stride_w': stride_w,
        'pad_h': pad_h, 'pad_w': pad_w, 'dilation_h': dilation_h, 'dilation_w': dilation_w,
        'groups': groups, 'depthwise': int(groups > 1 and groups == c == o),
    }  # fmt: skip


def _products(a: FixedPoint, b: FixedPoint) -> dict[str, Any]:
    """The largest product's magnitude, the products' exponents, threads."""
    largest = ((1 << a.bits - 1) - 1) * ((1 << b.bits - 1) - 1)
    left, right = a.exponent, b.exponent
    if left.dim() and right.dim():  # one for each group of both
        left, right = left.flatten(), right.flatten()
    exponents = (left + right).contiguous()
    return {
        'largest': largest, 'exponent': exponents, 'exponent_step': int(exponents.numel() > 1),
        'threads': torch.get_num_threads(),
    }  # fmt: skip


def _bias(bias: Tensor | None, random: RandomBits | None) -> tuple[Tensor | None, dict[str, Any]]:
    """The bias, contiguous in memory, and the kernels' arguments for it."""
    bias = flat(bias)
    length = 0 if bias is None else bias.numel()
    return bias, {'bias': bias, 'bias_length': length, **random_words(random)}


def _finished(result: int, out: Tensor, bias: Tensor | None, dim: int) -> Tensor:
    """``out`` of a kernel with a bias that belongs to dimension ``dim``."""
    any_sum, top = check_finite(result) >> 31, result & 0x7FFFFFFF
    if bias is not None and not any_sum and out.numel():  # then the result is the bias itself
        shape = [1] * out.dim()
        shape[dim] = -1
        out.copy_(bias.view(shape))
        top = int((bias.view(torch.int32) & 0x7FFFFFFF).max())
    remember_magnitude(out, top)
    return out
