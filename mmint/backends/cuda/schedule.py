"""How products are cut into tiles and parts: arguments of the kernels in product*.cu.

Every product is one of a matrix A and an image B seen through windows (product.cuh says which).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..geometry import Geometry
from .finish import Finish
from .launch import THREADS, launch
from .launcher import WORD, launcher

INT32_MOST = 2**31 - 1
STAGE = 64  # steps of K that a block takes at a time
MAX_SHAPES = 4096  # whose schedules are kept
MIN_STAGES = 8  # of a part of a product that is split along K


class Axis(NamedTuple):
    """The struct ``axis`` of schedule.cuh."""

    size: int
    positions: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    taps: int = 1
    phases: int = 1
    period: int = 1


class Product(NamedTuple):
    """The sizes in the struct ``product`` of schedule.cuh."""

    rows: int
    columns: int
    k: int
    a_problem: int
    b_problem: int
    out_problem: int
    a_pitch: int
    b_pitch: int
    channels: int
    vertical: Axis
    horizontal: Axis
    out_row: int
    out_x: int
    images: int = 1
    problems: int = 1
    backward: bool = False
    bias_problem: int = 0
    bias_row: int = 1
    bias_column: int = 0
    out_image: int = 0
    out_y: int = 0
    out_width: int = 0

    @property
    def groups(self) -> int:
        """Problems, each in all of its phases."""
        return self.problems * self.vertical.phases * self.horizontal.phases


@functools.lru_cache(MAX_SHAPES)
def sizes(p: Product, splits: int) -> bytes:
    """A product that is split so many times, in the struct's order after its pointers."""
    stages = -(-p.k // STAGE)
    words = (
        p.backward, p.problems, splits, stages, p.rows, p.columns, p.k, p.a_problem, p.b_problem,
        p.out_problem, p.bias_problem, p.bias_row, p.bias_column, p.a_pitch, p.images, p.b_pitch,
        p.channels, *p.vertical, *p.horizontal, p.out_row, p.out_image, p.out_y, p.out_x,
        p.out_width,
    )  # fmt: skip
    return b''.join(map(WORD.pack, words))


class Tile(NamedTuple):
    """Sums that a block of a kernel in product_*.cu makes, and what it needs."""

    name: str
    vector: int  # bytes that are copied at a time
    rows: int
    columns: int
    threads: int
    shared: int
    blocks: int  # that a multiprocessor runs at a time
    cost: float  # of a sum, against the large tile's
    overhead: int  # before and after the sums, in stages; what other blocks hide is left out


LARGE = Tile('large', 16, 128, 256, 256, 4 * (128 + 256) * STAGE, 1, 1.0, 8)
SMALL = Tile('small', 16, 64, 128, 128, 3 * (64 + 128) * STAGE, 3, 1.2, 3)
NARROW = Tile('narrow', 4, 64, 64, 128, 3 * (64 + 64) * STAGE, 4, 1.4, 3)
INT16 = Tile('16', 1, 16, 16, 256, 0, 8, 1.0, 0)


def axes(
    size: Sequence[int], positions: Sequence[int], taps: Sequence[int], geometry: Geometry
) -> tuple[Axis, Axis]:
    """The windows of a convolution, vertical and horizontal, at so many ``positions``."""
    stride, padding, dilation, _ = geometry
    vertical, horizontal = (
        Axis(size[i], positions[i], stride[i], padding[i], dilation[i], taps[i]) for i in (0, 1)
    )
    return vertical, horizontal


def launch_product(
    kind: str,
    vector: int,
    finish: Finish,
    largest: int,
    operands: tuple[Tensor, Tensor, Tensor],
    product: Product,
) -> None:
    """Launches a product of ``operands`` A, B and the result, in parts if it has long sums or few.

    ``largest`` is the largest magnitude of a product of mantissas.
    """
    a, b, out = operands
    device = out.device
    pixels = product.images * product.vertical.size * product.horizontal.size
    if max(pixels, product.columns, product.k) > INT32_MOST:
        raise ValueError(
            f'a product with {product.k} products a sum for {product.columns} places was asked for '
            f'of images with {pixels} pixels, up to {INT32_MOST} of each are accepted: use a '
            'smaller batch'
        )
    tile, splits = plan(product, vector, largest, device)
    parts = None
    if splits > 1:
        shape = splits, product.groups, product.rows, product.columns
        parts = torch.empty(shape, dtype=torch.int32, device=device)
    arguments = [(a, b, out, parts, finish.arguments, sizes(product, splits))]
    source = 'product16.cu' if tile is INT16 else f'product_{kind}.cu'
    kernel = launcher().kernel(source, f'{kind}_{tile.name}', device)
    launcher().launch(
        kernel, (tiles_of(product, tile) * splits, 1, 1), (tile.threads, 1, 1), tile.shared,
        arguments, device,
    )  # fmt: skip
    if splits > 1:
        launch(
            'add_parts.cu', 'add_parts', -(-product.rows * product.columns // THREADS), THREADS,
            [*arguments, kind[1] == 'k'], device,
        )  # fmt: skip


def plan(product: Product, vector: int, largest: int, device: torch.device) -> tuple[Tile, int]:
    """The tile, and into how many parts K is split, that take the least time by a simple model."""
    architecture = launcher().architecture(device)
    return _plan(product, vector, largest, processors(device), architecture)


@functools.lru_cache(MAX_SHAPES)
def _plan(
    product: Product, vector: int, largest: int, processors: int, architecture: str
) -> tuple[Tile, int]:
    if vector == 1:
        return INT16, 1
    stages = -(-product.k // STAGE)
    least = -(-stages // (INT32_MOST // largest // STAGE))

    def split(tile: Tile) -> int:
        room = tile.blocks * processors // tiles_of(product, tile)
        return max(least, min(room, stages // MIN_STAGES), 1)

    def time(tile: Tile) -> float:
        splits, at_once = split(tile), tile.blocks * processors
        turns = -(-tiles_of(product, tile) * splits // at_once)
        long = stages / splits + tile.overhead
        return turns * tile.blocks * tile.rows * tile.columns * tile.cost * long

    if vector == 4:
        return NARROW, split(NARROW)
    tile = min([SMALL] if architecture == 'sm_75' else [LARGE, SMALL], key=time)
    return tile, split(tile)


def tiles_of(product: Product, tile: Tile) -> int:
    """How many tiles cover a product."""
    return (
        -(-product.rows // tile.rows) * -(-product.columns // tile.columns) * product.groups
    )  # fmt: skip


@functools.cache
def processors(device: torch.device) -> int:
    """How many multiprocessors the device has."""
    if device.type != 'cuda':
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
