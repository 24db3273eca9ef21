"""The mappings between float32 and integers: grids and arguments of the kernels in mapping.cu and
dequantize.cu.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits, mantissa_dtype
from ..host.exponents import blocks, by_group
from ..magnitudes import known_magnitude
from ..source import Source
from . import finite
from .launch import SERVED, THREADS, launch, words
from .launcher import Argument, launcher
from .source import elements, largest_made, words_of

TILE_CHANNELS, TILE_PIXELS = 32, 512
MAX_PARTS = 1024
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)


def quantize(
    x: Tensor | Source,
    bits: int,
    random: RandomBits | None,
    largest: int | Tensor | None = None,
    exponents: tuple[int, ...] = (),
) -> FixedPoint:
    """As `Backend.quantize`; mantissas of four dimensions are channels-last in memory.

    ``largest`` is looked for where none is given.
    """
    shape, device, dtype = x.shape, x.device, mantissa_dtype(bits)
    count, run = blocks(shape, exponents)
    if isinstance(x, Source) and largest is not None:
        x = elements(x)
    if isinstance(x, Tensor):
        if largest is None and count == 1:
            largest = known_magnitude(x)
        x = x.detach().contiguous()
    images, channels, pixels = 1, 1, shape.numel()
    name, grid = 'quantize', -(-pixels // SERVED // THREADS)
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    mantissa = torch.empty(shape, dtype=dtype, device=device, memory_format=layout)
    if not mantissa.is_contiguous():
        images, channels, pixels = shape[0], shape[1], shape[2] * shape[3]
        name = 'quantize_images'
        grid = images * -(-channels // TILE_CHANNELS) * -(-pixels // TILE_PIXELS)
    exponent = torch.empty(exponents, dtype=torch.int32, device=device)
    if count > 1:
        name += '_each'
    if isinstance(x, Source):
        magnitudes = largest_made(x, count, run)
    elif count == 1:
        magnitudes = magnitudes_of(x, largest)
    else:
        magnitudes = _magnitudes_of_blocks(x, count, run, largest)
    launch('mapping.cu', f'{name}_{8 * mantissa.element_size()}', grid, THREADS, [
        (words_of(x), mantissa, magnitudes, magnitudes.numel(), exponent, finite.flag(device),
         finite.number(device), bits, images, channels, pixels, count, run,
         words(random, device)),
    ], device)  # fmt: skip
    return FixedPoint(mantissa, exponent, bits)


def magnitudes_of(x: Tensor, largest: int | Tensor | None) -> Tensor:
    """int32 bit patterns, the highest that of the largest magnitude: ``largest`` where known."""
    if isinstance(largest, Tensor):
        return largest
    if largest is not None:
        return torch.tensor(largest, dtype=torch.int32, device=x.device)
    parts = max(1, min(MAX_PARTS, -(-x.numel() // (16 * THREADS))))
    found = torch.empty(parts, dtype=torch.int32, device=x.device)
    launch('mapping.cu', 'largest', parts, THREADS, [x, x.numel(), found], x.device)
    return found


def _magnitudes_of_blocks(x: Tensor, count: int, run: int, largest: int | Tensor | None) -> Tensor:
    """int32 bit patterns, the largest magnitude of each block of ``x``."""
    if largest is not None:
        return torch.as_tensor(largest, dtype=torch.int32, device=x.device).reshape(count)
    found = torch.zeros(count, dtype=torch.int32, device=x.device)
    if x.numel():
        grid = count * -(-x.numel() // count // (16 * THREADS))
        launch(
            'mapping.cu', 'largest_each', grid, THREADS, [x, x.numel(), count, run, found], x.device
        )
    return found


def dequantize(mantissa: Tensor, exponent: Tensor | int) -> Tensor:
    """As `Backend.dequantize`."""
    if mantissa.dtype not in SIGNED:
        mantissa = mantissa.to(torch.int64)
    mantissa = mantissa.contiguous()
    out = torch.empty(mantissa.shape, dtype=torch.float32, device=mantissa.device)
    if mantissa.numel():
        launch(
            'dequantize.cu', f'dequantize_{8 * mantissa.element_size()}',
            -(-mantissa.numel() // THREADS), THREADS,
            [mantissa, out, mantissa.numel(), exponent_sum(exponent)], mantissa.device,
        )  # fmt: skip
    return out


def channel_sum(grad: FixedPoint, channel_dim: int) -> Tensor:
    """As `Backend.channel_sum`."""
    mantissa = grad.mantissa.movedim(channel_dim, -1).contiguous()
    channels = mantissa.shape[-1]
    grad = grad._replace(exponent=grad.exponents().to(torch.int32))
    out = torch.empty(channels, dtype=torch.float32, device=mantissa.device)
    if not channels:
        return out
    rows = mantissa.numel() // channels
    parts = max(1, min(256, rows // 64))
    sums = torch.empty((parts, channels), dtype=torch.int64, device=mantissa.device)
    name = f'channel_parts_{8 * mantissa.element_size()}'
    kernel = launcher().kernel('dequantize.cu', name, mantissa.device)
    launcher().launch(
        kernel, (-(-channels // 32), parts, 1), (32, 8, 1), 0, [mantissa, sums, rows, channels],
        mantissa.device,
    )  # fmt: skip
    launch(
        'dequantize.cu', 'channel_sum', -(-channels // THREADS), THREADS,
        [sums, out, parts, channels, by_group(grad)], mantissa.device,
    )  # fmt: skip
    return out


def exponent_sum(exponent: Tensor | int, addend: int = 0) -> tuple[Argument, ...]:
    """The struct ``exponent_sum`` of dequantize.cu."""
    return (exponent, addend) if isinstance(exponent, Tensor) else (None, exponent + addend)
