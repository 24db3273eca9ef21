"""The mappings between float32 and integers: grids and arguments of the kernels in mapping.cu and
dequantize.cu.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits, mantissa_dtype
from ..errors import naming
from ..host.exponents import blocks, by_group
from ..magnitudes import known_magnitude, known_magnitudes
from ..mapping import Mapping
from ..source import Unwritten
from . import finite
from .largest import largest_magnitudes
from .launch import MAX_BLOCKS, SERVED, THREADS, launch, words
from .launcher import Argument, launcher
from .source import words_of
from .zeroed import zeros

TILE_CHANNELS, TILE_PIXELS = 32, 512
MAX_PARTS = 1024
MAX_SHAPES = 4096  # whose sizes are kept
MAPPINGS, MAPPING_WORDS = 24, 21  # in the arguments of a kernel
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)


def quantize(
    x: Tensor | Unwritten,
    bits: int,
    random: RandomBits | None,
    largest: int | Tensor | None = None,
    exponents: tuple[int, ...] = (),
) -> FixedPoint:
    """As `Backend.quantize`; mantissas of four dimensions are channels-last in memory.

    ``largest`` is looked for where none is given.
    """
    work = _Work.on(x, bits, exponents)
    count, run = blocks(x.shape, exponents)
    if not count:  # an exponent for each of no images
        return work.made
    if isinstance(x, Tensor):
        if largest is None:
            largest = known_magnitude(x) if count == 1 else known_magnitudes(x, exponents)
        x = x.detach().contiguous()
    magnitudes = largest_magnitudes(x, largest, count, run)
    each = '_each' if count > 1 else ''
    launch(
        'mapping.cu', f'{work.name}{each}_{work.width}', work.grid, THREADS,
        [words_of(x), work.arguments(magnitudes, random)], x.device,
    )  # fmt: skip
    return work.made


class _Work(NamedTuple):
    """What mapping a tensor takes, and makes.

    Attributes:
        name: of the kernel.
        grid: how many blocks.
        sizes: what the struct ``mapping`` of mapping.cu has between ``call`` and ``random``.
    """

    made: FixedPoint
    name: str
    grid: int
    sizes: tuple[int, ...]

    @classmethod
    def on(
        cls, x: Tensor | Unwritten, bits: int, exponents: tuple[int, ...], turned: bool = False
    ) -> _Work:
        """Of such a contiguous tensor; its mantissas ``turned`` as of `Mapping`."""
        dtype, device, size = mantissa_dtype(bits), x.device, x.shape
        exponent = torch.empty(exponents, dtype=torch.int32, device=device)
        if turned:
            turned_size = *size[1:], size[0]
            mantissa = torch.empty(turned_size, dtype=dtype, device=device).movedim(-1, 0)
        else:
            layout = torch.channels_last if len(size) == 4 else torch.contiguous_format
            mantissa = torch.empty(size, dtype=dtype, device=device, memory_format=layout)
        made = FixedPoint(mantissa, exponent, bits)
        return cls(made, *_sizes(bits, size, mantissa.is_contiguous(), turned, exponents))

    @property
    def width(self) -> int:
        """Bits of a mantissa in memory."""
        return 8 * self.made.mantissa.element_size()

    def arguments(self, magnitudes: Tensor, random: RandomBits | None) -> tuple[Argument, ...]:
        """The struct ``mapping`` of mapping.cu."""
        device = magnitudes.device
        return (
            self.made.mantissa, magnitudes, magnitudes.numel(), self.made.exponent,
            finite.flag(device), finite.number(device), *self.sizes, words(random, device),
        )  # fmt: skip


@functools.lru_cache(MAX_SHAPES)
def _sizes(
    bits: int, size: torch.Size, in_order: bool, turned: bool, exponents: tuple[int, ...]
) -> tuple[str, int, tuple[int, ...]]:
    """Name, grid and sizes of a `_Work`; ``in_order`` if mantissas lie in memory as elements do."""
    images, channels, pixels = 1, 1, size.numel()
    if not in_order:
        images, channels, pixels = size[0], size[1], size[2] * size[3]
        if turned:
            images, channels, pixels = 1, size[0], size[1:].numel()
    sizes = bits, images, channels, pixels, *blocks(size, exponents)
    if channels == 1:
        return 'quantize', -(-pixels // SERVED // THREADS), sizes
    tiles = images * -(-channels // TILE_CHANNELS) * -(-pixels // TILE_PIXELS)
    return 'quantize_images', tiles, sizes


def quantize_all(mappings: Sequence[Mapping]) -> list[FixedPoint]:
    """As `Backend.quantize_all`: two launches for up to `MAPPINGS` tensors of one width."""
    made: list[FixedPoint] = []
    rows: dict[tuple[torch.device, int], list[tuple[Argument, int]]] = {}
    for x, bits, random, exponents, not_finite, turned in mappings:
        x = x.detach().contiguous()
        work = _Work.on(x, bits, exponents, turned)
        magnitudes = zeros((math.prod(exponents),), torch.int32, x.device)
        with naming(not_finite):
            arguments = x, *work.arguments(magnitudes, random)
        rows.setdefault((x.device, work.width), []).append((arguments, work.grid))
        made.append(work.made)
    for (device, width), some in rows.items():
        for first in range(0, len(some), MAPPINGS):
            _launch_all(some[first : first + MAPPINGS], width, device)
    return made


def _launch_all(rows: list[tuple[Argument, int]], width: int, device: torch.device) -> None:
    blocks, mappings = 0, list[Argument]()
    for arguments, grid in rows:
        mappings += arguments, blocks
        blocks += max(1, min(grid, MAX_BLOCKS))
    rest = bytes(8 * MAPPING_WORDS * (MAPPINGS - len(rows)))
    for name in ('largest_of_all', f'quantize_all_{width}'):
        kernel = launcher().kernel('mapping.cu', name, device)
        launcher().launch(
            kernel, (blocks, 1, 1), (THREADS, 1, 1), 0, [(len(rows), *mappings, rest)], device
        )


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
