"""Mapping float32 to mantissas and back: arguments of the kernels in mapping.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits, mantissa_dtype
from ..magnitudes import known_magnitude
from .library import ready
from .operands import check_finite, random_words


def quantize(
    x: Tensor, bits: int, random: RandomBits | None, largest: int | Tensor | None = None
) -> FixedPoint:
    """As `Backend.quantize`; ``largest`` is looked for where none is given."""
    kernels = ready()
    if largest is None:
        largest = known_magnitude(x)
    x = x.detach().contiguous()
    images, channels, pixels = 1, 1, x.numel()
    if x.dim() == 4 and bits <= 8:
        images, channels, height, width = x.shape
        pixels = height * width
        mantissa = torch.empty(x.shape, dtype=torch.int8, memory_format=torch.channels_last)
    else:
        mantissa = torch.empty(x.shape, dtype=mantissa_dtype(bits))
    exponent = kernels.quantize(
        x=x, out=mantissa, images=images, channels=channels, pixels=pixels, bits=bits,
        top=-1 if largest is None else int(largest), **random_words(random),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    check_finite(exponent)
    return FixedPoint(mantissa, torch.tensor(exponent, dtype=torch.int32), bits)


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
    mantissa = grad.mantissa.movedim(channel_dim, -1).contiguous()
    channels = mantissa.shape[-1]
    out = torch.empty(channels, dtype=torch.float32)
    ready().channel_sum(
        x=mantissa, out=out, rows=mantissa.numel() // max(channels, 1), channels=channels,
        wide=mantissa.dtype == torch.int16, exponent=int(grad.exponent),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    return out
