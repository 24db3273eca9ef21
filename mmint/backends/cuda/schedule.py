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
from .finish import Finish, most
from .launch import THREADS, launch
from .launcher import Argument, launcher

INT32_MOST = 2**31 - 1
STAGE = 64  # steps of K that a block takes at a time
MIN_STAGES = 8  # of a part of a product that is split along K


class Axis(NamedTuple):
    """The struct ``axis`` of product.cuh."""

    size: int
    positions: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    taps: int = 1
    phases: int = 1
    period: int = 1


class Product(NamedTuple):
    """The struct ``product`` of product.cuh."""

    a: Tensor
    b: Tensor
    out: Tensor
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
    parts: Tensor | None = None
    splits: int = 1
    finish: tuple[Argument, ...] = (None, None)

    def arguments(self) -> tuple[Argument, ...]:
        """The fields in the struct's order."""
        stages = -(-self.k // STAGE)
        return (
            self.a, self.b, self.out, self.parts, self.finish, self.backward, self.problems,
            self.splits, stages, self.rows, self.columns, self.k, self.a_problem, self.b_problem,
            self.out_problem, self.bias_problem, self.bias_row, self.bias_column, self.a_pitch,
            self.images, self.b_pitch, self.channels, self.vertical, self.horizontal, self.out_row,
            self.out_image, self.out_y, self.out_x, self.out_width,
        )  # fmt: skip

    @property
    def groups(self) -> int:
        """Problems, each in all of its phases."""
        return self.problems * self.vertical.phases * self.horizontal.phases


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


LARGE = Tile('large', 16, 128, 256, 256, 4 * (128 + 256) * STAGE, 1, 1.0)
SMALL = Tile('small', 16, 64, 128, 128, 3 * (64 + 128) * STAGE, 3, 1.2)
NARROW = Tile('narrow', 4, 64, 64, 128, 3 * (64 + 64) * STAGE, 4, 1.4)
INT16 = Tile('16', 1, 16, 16, 256, 0, 8, 1.0)


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
    kind: str, vector: int, finish: Finish, a_bits: int, b_bits: int, product: Product
) -> None:
    """Launches a product, in parts if it has long sums or few."""
    device = product.out.device
    pixels = product.images * product.vertical.size * product.horizontal.size
    if max(pixels, product.columns, product.k) > INT32_MOST:
        raise ValueError(
            f'a product with {product.k} products a sum for {product.columns} places was asked for '
            f'of images with {pixels} pixels, up to {INT32_MOST} of each are accepted: use a '
            'smaller batch'
        )
    tile, splits = plan(product, vector, most(a_bits, b_bits), device)
    parts = None
    if splits > 1:
        shape = splits, product.groups, product.rows, product.columns
        parts = torch.empty(shape, dtype=torch.int32, device=device)
    product = product._replace(parts=parts, splits=splits, finish=finish.arguments())
    source = 'product16.cu' if tile is INT16 else f'product_{kind}.cu'
    kernel = launcher().kernel(source, f'{kind}_{tile.name}', device)
    launcher().launch(
        kernel, (tiles_of(product, tile) * splits, 1, 1), (tile.threads, 1, 1), tile.shared,
        [product.arguments()], device,
    )  # fmt: skip
    if splits > 1:
        launch(
            'add_parts.cu', 'add_parts', -(-product.rows * product.columns // THREADS), THREADS,
            [product.arguments(), kind[1] == 'k'], device,
        )  # fmt: skip


def plan(product: Product, vector: int, largest: int, device: torch.device) -> tuple[Tile, int]:
    """The tile, and into how many parts K is split, that take the least time by a simple model.

    ``largest`` is the largest magnitude of a product of mantissas.
    """
    if vector == 1:
        return INT16, 1
    stages = -(-product.k // STAGE)
    least = -(-stages // (INT32_MOST // largest // STAGE))

    def split(tile: Tile) -> int:
        room = tile.blocks * processors(device) // tiles_of(product, tile)
        return max(least, min(room, stages // MIN_STAGES), 1)

    def time(tile: Tile) -> float:
        splits, at_once = split(tile), tile.blocks * processors(device)
        turns = -(-tiles_of(product, tile) * splits // at_once)
        return turns * tile.blocks * tile.rows * tile.columns * tile.cost / splits

    if vector == 4:
        return NARROW, split(NARROW)
    tiles = [SMALL] if launcher().architecture(device) == 'sm_75' else [LARGE, SMALL]
    tile = min(tiles, key=time)
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
