"""Mapping float32 to mantissas and back: arguments of the kernels in mapping.c."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits, mantissa_dtype
from ..host.exponents import blocks
from ..magnitudes import known_magnitude
from ..source import Unwritten
from .library import ready
from .operands import check_finite, random_words, with_exponents
from .source import with_source


def quantize(
    x: Tensor | Unwritten,
    bits: int,
    random: RandomBits | None,
    largest: int | Tensor | None = None,
    exponents: tuple[int, ...] = (),
) -> FixedPoint:
    """As `Backend.quantize`; ``largest`` is looked for where none is given."""
    kernels = ready()
    shape = x.shape
    count, run = blocks(shape, exponents)
    if isinstance(x, Tensor):
        if largest is None and count == 1:
            largest = known_magnitude(x)
        x = x.detach().contiguous()
    tops = None if largest is None else torch.as_tensor(largest, dtype=torch.int32).reshape(count)
    images, channels, pixels = 1, 1, shape.numel()
    if len(shape) == 4 and bits <= 8:
        images, channels, height, width = shape
        pixels = height * width
        mantissa = torch.empty(shape, dtype=torch.int8, memory_format=torch.channels_last)
    else:
        mantissa = torch.empty(shape, dtype=mantissa_dtype(bits))
    exponent = torch.empty(exponents, dtype=torch.int32)
    check_finite(kernels.quantize(
        **with_source('x', x), out=mantissa, tops=tops, exponents=exponent,
        images=images, channels=channels, pixels=pixels, bits=bits, count=count, run=run,
        **random_words(random), threads=torch.get_num_threads(),
    ))  # fmt: skip
    return FixedPoint(mantissa, exponent, bits)


def dequantize(mantissa: Tensor, exponent: Tensor | int) -> Tensor:
    """As `Backend.dequantize`."""
    kernels = ready()
    if mantissa.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64):
        mantissa = mantissa.to(torch.int64)
    mantissa = mantissa.contiguous()
    out = torch.empty(mantissa.shape, dtype=torch.float32)
    kernels.dequantize(
        x=mantissa, out=out, n=mantissa.numel(), size=mantissa.element_size(),
        exponent=int(exponent), threads=torch.get_num_threads(),
    )  # fmt: skip
    return out


def channel_sum(grad: FixedPoint, channel_dim: int) -> Tensor:
    """As `Backend.channel_sum`."""
    mantissa = grad.mantissa
    if channel_dim != 1 or not mantissa.is_contiguous():
        mantissa = mantissa.movedim(channel_dim, -1).contiguous()
        mantissa = mantissa.view(math.prod(mantissa.shape[:-1]), mantissa.shape[-1])
    images, channels, *sizes = mantissa.shape
    grad = grad._replace(exponent=grad.exponents().to(torch.int32))
    out = torch.empty(channels, dtype=torch.float32)
    ready().channel_sum(
        x=mantissa, out=out, images=images, channels=channels, pixels=math.prod(sizes),
        wide=mantissa.dtype == torch.int16, **with_exponents('exponent', grad),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    return out
