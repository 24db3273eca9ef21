"""The largest magnitudes of what is mapped: grids and arguments of the kernels in largest.cu."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..source import Masked, Source, Unwritten
from .launch import THREADS, grid_of_groups, launch
from .launcher import Argument
from .source import words_of
from .zeroed import zeros

MAX_PARTS = 1024
TILE_CHANNELS, PART_PIXELS = 32, 512


def largest_magnitudes(
    x: Tensor | Unwritten, known: int | Tensor | None, count: int, run: int
) -> Tensor:
    """int32 bit patterns, the largest of each of ``count`` blocks of ``x``: ``known`` if given.

    Where it is one block, they are of parts of it.
    """
    if known is not None:
        return _on_device(known, x.device).reshape(-1)
    if isinstance(x, Source):
        return _of_made(x, count, run)
    if isinstance(x, Masked):
        return _of_blocks('largest_passed', words_of(x), x, count, run)
    return magnitudes_of(x, None) if count == 1 else _of_blocks('largest_each', x, x, count, run)


def magnitudes_of(x: Tensor, known: int | Tensor | None) -> Tensor:
    """int32 bit patterns, the highest that of the largest magnitude: ``known`` if given."""
    if known is not None:
        return _on_device(known, x.device)
    parts = max(1, min(MAX_PARTS, -(-x.numel() // (16 * THREADS))))
    found = torch.empty(parts, dtype=torch.int32, device=x.device)
    launch('largest.cu', 'largest', parts, THREADS, [x, x.numel(), found], x.device)
    return found


def _on_device(known: int | Tensor, device: torch.device) -> Tensor:
    if isinstance(known, Tensor):  # a launch refuses one of another device
        return known.to(torch.int32)
    return torch.tensor(known, dtype=torch.int32, device=device)


def _of_blocks(kernel: str, read: Argument, x: Tensor | Masked, count: int, run: int) -> Tensor:
    found = zeros((count,), torch.int32, x.device)
    if x.numel():
        launch(
            'largest.cu', kernel, grid_of_groups(x.numel(), count), THREADS,
            [read, x.numel(), count, run, found], x.device,
        )  # fmt: skip
    return found


def _of_made(source: Source, count: int, run: int) -> Tensor:
    """Of blocks that hold whole planes."""
    images, channels, *image = source.shape
    found = zeros((count,), torch.int32, source.device)
    if source.numel():
        tiles = images * -(-channels // TILE_CHANNELS) * -(-math.prod(image) // PART_PIXELS)
        launch(
            'largest.cu', 'largest_made', tiles, THREADS,
            [words_of(source), source.numel(), count, run, found], source.device,
        )  # fmt: skip
    return found
