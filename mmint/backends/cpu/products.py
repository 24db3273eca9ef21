"""Convolutions and matrix products: arguments of the kernels in conv.c and product.c."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits
from ..geometry import Geometry
from ..host.arguments import NO_BITS, pair, words
from ..host.checks import check_matrices
from ..magnitudes import remember_magnitude
from .kernels import ready
from .operands import check_finite

NO_BIAS = (0, 0, *NO_BITS)


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
    a, b = _channels_last(a), _channels_last(b)

    def run(bias_words: tuple[int, ...]) -> int:
        return ready().conv2d(
            a.data_ptr(), b.data_ptr(), 0, out.data_ptr(),
            *_geometry(shape, b.shape, out.shape, geometry), wide, *_products(x, weight),
            *bias_words,
        )  # fmt: skip

    return _with_bias(run, out, bias, random, 1)


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
    g, b = _channels_last(g), _channels_last(b)

    def run(bias_words: tuple[int, ...]) -> int:
        return ready().conv2d_input_grad(
            0, b.data_ptr(), g.data_ptr(), out.data_ptr(),
            *_geometry(out.shape, b.shape, g.shape, geometry), wide, *_products(grad, weight),
            *bias_words,
        )  # fmt: skip

    return _with_bias(run, out, bias, random, 1)


def conv2d_weight_grad(
    grad: FixedPoint,
    x: FixedPoint,
    weight_size: tuple[int, int, int, int],
    geometry: Geometry,
) -> Tensor:
    """As `Backend.conv2d_weight_grad`."""
    out = torch.empty(tuple(weight_size), dtype=torch.float32)
    g, a, wide = pair(grad, x)
    g, a = _channels_last(g), _channels_last(a)
    ready().conv2d_weight_grad(
        a.data_ptr(), 0, g.data_ptr(), out.data_ptr(),
        *_geometry(a.shape, out.shape, g.shape, geometry), wide, *_products(grad, x), *NO_BIAS,
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

    def run(bias_words: tuple[int, ...]) -> int:
        return ready().matmul(
            left.data_ptr(), right.data_ptr(), out.data_ptr(), (1, *left.shape)[-3], m, k, n,
            *(0, *left.stride())[-3:], *(0, *right.stride())[-3:], wide,
            *_products(a, b), *bias_words,
        )  # fmt: skip

    return _with_bias(run, out, bias, random, -1)


def _matrices(mantissa: Tensor) -> Tensor:
    """At most one leading dimension, and rows or columns whose elements are side by side."""
    if mantissa.dim() > 3:
        mantissa = mantissa.flatten(0, -3)
    return mantissa if 1 in mantissa.stride()[-2:] else mantissa.contiguous()


def _channels_last(mantissa: Tensor) -> Tensor:
    return mantissa.contiguous(memory_format=torch.channels_last)


def _geometry(
    x: tuple[int, ...], weight: tuple[int, ...], out: tuple[int, ...], geometry: Geometry
) -> tuple[int, ...]:
    stride, padding, dilation, groups = geometry
    return (*x, *weight[:1], *weight[2:], *out[2:], *stride, *padding, *dilation, groups)


def _products(a: FixedPoint, b: FixedPoint) -> tuple[int, int, int]:
    """The largest product's magnitude, the products' exponent, threads."""
    largest = ((1 << a.bits - 1) - 1) * ((1 << b.bits - 1) - 1)
    return largest, int(a.exponent) + int(b.exponent), torch.get_num_threads()


def _with_bias(
    run: Callable[[tuple[int, ...]], int],
    out: Tensor,
    bias: Tensor | None,
    random: RandomBits | None,
    dim: int,
) -> Tensor:
    bias_words: tuple[int, ...] = NO_BIAS
    if bias is not None:
        bias = bias.detach().contiguous()
        bias_words = bias.data_ptr(), bias.numel(), *words(random)
    result = check_finite(run(bias_words))
    any_sum, top = result >> 31, result & 0x7FFFFFFF
    if bias is not None and not any_sum and out.numel():  # then the result is the bias itself
        shape = [1] * out.dim()
        shape[dim] = -1
        out.copy_(bias.view(shape))
        top = int((bias.view(torch.int32) & 0x7FFFFFFF).max())
    remember_magnitude(out, top)
    return out
