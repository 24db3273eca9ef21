"""Products of integers: arguments of the kernels in product.cu, product16.cu and depthwise.cu.

Every product is one of a matrix A and an image B seen through windows (product.cuh says which); a
launch of `prepare` before it and, where there is a bias, of `bias_alone` after it (finish.cuh) do
what concerns all of its sums. Nothing waits for the device.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...numerics import FixedPoint, RandomBits
from ..geometry import Geometry
from ..magnitudes import remember_magnitude
from ..reference.products import check_matrices
from . import finite
from .launcher import Argument, launcher
from .mapping import THREADS, run, words

INT32_MOST = 2**31 - 1
STAGE = 64  # steps of K that a block takes at a time
MIN_STAGES = 8  # of a part of a product that is split along K
WORTHWHILE = 1.25  # how much wider operands may get so that 16 bytes can be copied at once
STATE_WORDS, TOP = 6, 4  # of `finish_state`


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
    """Sums that a block of a kernel in product.cu makes, and what it needs."""

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
NARROW = SMALL._replace(name='narrow', vector=4)
INT16 = Tile('16', 1, 16, 16, 256, 0, 8, 1.0)


def conv2d(
    x: FixedPoint,
    weight: FixedPoint,
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `mmint.backends.reference.conv2d`."""
    images, _, *size = x.mantissa.shape
    filters, channels, *taps = weight.mantissa.shape
    groups = geometry.groups
    height, width = geometry.output_size(size, taps)
    out = _empty((images, filters, height, width), x)
    with _Finish(out, x, weight, channels * math.prod(taps), bias, random, 1) as finish:
        if out.numel() == 0:
            return out
        if channels == 1 and filters == groups:
            _depthwise('forward', x, weight, out, finish, geometry, (size, (height, width), taps))
            return out
        a, b, vector = _pair(weight.mantissa, x.mantissa, channels, channels)
        a = _filled(a.permute(0, 2, 3, 1), 1, vector)
        b = _filled(b.permute(0, 2, 3, 1), groups, vector)
        channels = a.shape[3]
        k, rows, pixels = math.prod(taps) * channels, filters // groups, height * width
        _run('kk', vector, finish, x.bits, weight.bits, Product(
            a, b, out, rows, images * pixels, k, rows * k, channels, rows * pixels, k, b.shape[3],
            channels, *_axes(size, (height, width), taps, geometry), pixels, 1, images, groups,
            bias_problem=rows, out_image=filters * pixels, out_y=width,
        ))  # fmt: skip
    return out


def conv2d_input_grad(
    grad: FixedPoint,
    weight: FixedPoint,
    input_size: tuple[int, int, int, int],
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `mmint.backends.reference.conv2d_input_grad`."""
    images, all_channels, *size = input_size
    filters, channels, *taps = weight.mantissa.shape
    groups, grad_size = geometry.groups, tuple(grad.mantissa.shape[2:])
    out = _empty(input_size, grad)
    rows, per_group = channels, filters // groups
    with _Finish(out, grad, weight, per_group * math.prod(taps), bias, random, 1) as finish:
        if out.numel() == 0:
            return out
        if channels == 1 and filters == groups:
            sizes = size, grad_size, taps
            _depthwise('input_grad', grad, weight, out, finish, geometry, sizes)
            return out
        a, b, vector = _pair(weight.mantissa, grad.mantissa, per_group, per_group)
        a = a.view(groups, per_group, channels, *taps).permute(0, 2, 3, 4, 1)
        a = _filled(a.reshape(groups * channels, *taps, per_group), 1, vector)
        b = _filled(b.permute(0, 2, 3, 1), groups, vector)
        depth, pixels = a.shape[3], math.prod(size)
        k = math.prod(taps) * depth
        vertical, horizontal = (
            axis._replace(
                size=grad_size[i], positions=size[i], phases=axis.stride,
                period=axis.stride // math.gcd(axis.stride, axis.dilation),
            )
            for i, axis in enumerate(_axes(size, grad_size, taps, geometry))
        )  # fmt: skip
        columns = images * math.prod(-(-a.positions // a.stride) for a in (vertical, horizontal))
        _run('kk', vector, finish, grad.bits, weight.bits, Product(
            a, b, out, rows, columns, k, rows * k, depth, rows * pixels, k, b.shape[3], depth,
            vertical, horizontal, pixels, 1, images, groups, backward=True, bias_problem=rows,
            out_image=all_channels * pixels, out_y=size[1],
        ))  # fmt: skip
    return out


def conv2d_weight_grad(
    grad: FixedPoint,
    x: FixedPoint,
    weight_size: tuple[int, int, int, int],
    geometry: Geometry,
) -> Tensor:
    """As `mmint.backends.reference.conv2d_weight_grad`."""
    filters, channels, *taps = weight_size
    groups, size, grad_size = geometry.groups, x.mantissa.shape[2:], grad.mantissa.shape[2:]
    images, rows = len(x.mantissa), filters // geometry.groups
    pixels = images * math.prod(grad_size)
    out = _empty(weight_size, x)
    with _Finish(out, grad, x, pixels) as finish:
        if out.numel() == 0:
            return out
        if channels == 1 and filters == groups:
            _depthwise('weight_grad', x, grad, out, finish, geometry, (size, grad_size, taps))
            return out
        a, b, vector = _pair(grad.mantissa, x.mantissa, rows, channels)
        a = _filled(a.permute(0, 2, 3, 1), groups, vector)
        b = _filled(b.permute(0, 2, 3, 1), groups, vector)
        depth, window = b.shape[3] // groups, math.prod(taps)
        _run('rr', vector, finish, grad.bits, x.bits, Product(
            a, b, out, rows, window * depth, pixels, a.shape[3] // groups, depth,
            rows * channels * window, a.shape[3], b.shape[3], depth,
            *_axes(size, grad_size, taps, geometry), channels * window, window, images, groups,
            out_y=1, out_width=channels,
        ))  # fmt: skip
    return out


def matmul(
    a: FixedPoint, b: FixedPoint, bias: Tensor | None = None, random: RandomBits | None = None
) -> Tensor:
    """As `mmint.backends.reference.matmul`."""
    check_matrices(a, b)
    *batch, m, k = a.mantissa.shape
    n = b.mantissa.shape[-1]
    out = _empty((*batch, m, n), a)
    with _Finish(out, a, b, k, bias, random, -1) as finish:
        if out.numel() == 0:
            return out
        left, right = (t.mantissa.reshape(math.prod(batch), *t.mantissa.shape[-2:]) for t in (a, b))
        a_along_k = left.stride(2) == 1 or left.stride(1) != 1
        b_along_k = a_along_k and right.stride(2) != 1
        if b_along_k:
            right = right.mT
        if not a_along_k:
            left = left.mT
        left, right, vector = _pair(left, right, left.shape[2], right.shape[2])
        left, right = _lines(left, vector), _lines(right, vector)
        channels = right.shape[2]
        line = Axis(n if b_along_k else k, n if b_along_k else k)
        kind = ('k' if a_along_k else 'r') + ('k' if b_along_k else 'r')
        _run(kind, vector, finish, a.bits, b.bits, Product(
            left, right, out, m, n if b_along_k else channels, channels if b_along_k else k,
            left.stride(0), right.stride(0), m * n, left.stride(1), right.stride(1), channels,
            Axis(1, 1), line, n, 1, problems=len(left), bias_row=0, bias_column=1, out_width=n,
        ))  # fmt: skip
    return out


# ---- operands ----


def _empty(shape: tuple[int, ...], like: FixedPoint) -> Tensor:
    return torch.empty(tuple(shape), dtype=torch.float32, device=like.mantissa.device)


def _pair(a: Tensor, b: Tensor, a_width: int, b_width: int) -> tuple[Tensor, Tensor, int]:
    """Both operands in one type, and how many bytes at a time are copied; 1 for int16."""
    if torch.int16 in (a.dtype, b.dtype):
        return a.to(torch.int16), b.to(torch.int16), 1
    vectors = (16 if -(-w // 16) * 16 <= WORTHWHILE * w else 4 for w in (a_width, b_width))
    return a, b, min(vectors)


def _filled(x: Tensor, groups: int, vector: int) -> Tensor:
    """``x`` (..., channels), contiguous, each group's channels a multiple of ``vector``."""
    width = x.shape[-1] // groups
    if width % vector:
        x = F.pad(x.unflatten(-1, (groups, width)), (0, -width % vector)).flatten(-2)
    x = x.contiguous()
    return x.clone() if x.data_ptr() % vector else x


def _lines(x: Tensor, vector: int) -> Tensor:
    """``x`` (batch, lines, length) with lines that begin and end at multiples of ``vector``."""
    *steps, step = x.stride()
    ragged = any(n % vector for n in (x.shape[2], *steps, x.data_ptr() // x.element_size()))
    return _filled(x, 1, vector) if ragged or step != 1 else x


def _axes(
    size: tuple[int, ...], positions: tuple[int, ...], taps: list[int], geometry: Geometry
) -> list[Axis]:
    stride, padding, dilation, _ = geometry
    return [
        Axis(size[i], positions[i], stride[i], padding[i], dilation[i], taps[i]) for i in (0, 1)
    ]


# ---- launches ----


@functools.cache
def processors(device: torch.device) -> int:
    """How many multiprocessors the device has."""
    if device.type != 'cuda':
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


class _Finish:
    """What happens before and after a product: the structs ``finish_state`` and ``finish``.

    As a context it prepares them, and mends the result where all sums are zero.
    """

    def __init__(
        self,
        out: Tensor,
        a: FixedPoint,
        b: FixedPoint,
        length: int,
        bias: Tensor | None = None,
        random: RandomBits | None = None,
        channel_dim: int = 1,
    ) -> None:
        device = out.device
        self.out, self.channel_dim = out, channel_dim
        self.state = torch.empty(STATE_WORDS, dtype=torch.int32, device=device)
        self.bias = self.rounded = flag = None
        call = count = 0
        if bias is not None:
            self.bias, count = bias.detach().contiguous(), len(bias)
            self.rounded = torch.empty(count, dtype=torch.int64, device=device)
            flag, call = finite.flag(device), finite.number(device)
        run('finish.cu', 'prepare', 1, THREADS, [
            (a.exponent, b.exponent, self.state, self.bias, self.rounded, count,
             length * _most(a.bits, b.bits), flag, call, words(random)),
        ], device)  # fmt: skip

    def arguments(self) -> tuple[Argument, ...]:
        """The struct ``finish`` of finish.cuh."""
        return self.state, self.rounded

    def __enter__(self) -> _Finish:
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        if error is not None:
            return
        out = self.out
        if self.bias is not None and out.numel():
            dim = self.channel_dim % out.dim()
            sizes = (math.prod(out.shape[:dim]), out.shape[dim], math.prod(out.shape[dim + 1 :]))
            run(
                'finish.cu', 'bias_alone', -(-out.numel() // (4 * THREADS)), THREADS,
                [self.state, self.bias, out, *sizes], out.device,
            )  # fmt: skip
        remember_magnitude(out, self.state[TOP])


def _most(*bits: int) -> int:
    """The largest magnitude of a product of mantissas."""
    return math.prod(2 ** (b - 1) - 1 for b in bits)


def _run(
    kind: str, vector: int, finish: _Finish, a_bits: int, b_bits: int, product: Product
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
    tile, splits = _plan(product, vector, _most(a_bits, b_bits), device)
    parts = None
    if splits > 1:
        shape = splits, product.groups, product.rows, product.columns
        parts = torch.empty(shape, dtype=torch.int32, device=device)
    product = product._replace(parts=parts, splits=splits, finish=finish.arguments())
    source = 'product16.cu' if tile is INT16 else 'product.cu'
    kernel = launcher().kernel(source, f'{kind}_{tile.name}', device)
    launcher().launch(
        kernel, (_tiles(product, tile) * splits, 1, 1), (tile.threads, 1, 1), tile.shared,
        [product.arguments()], device,
    )  # fmt: skip
    if splits > 1:
        run(
            'product.cu', 'add_parts', -(-product.rows * product.columns // THREADS), THREADS,
            [product.arguments(), kind[1] == 'k'], device,
        )  # fmt: skip


def _tiles(product: Product, tile: Tile) -> int:
    return (
        -(-product.rows // tile.rows) * -(-product.columns // tile.columns) * product.groups
    )  # fmt: skip


def _plan(product: Product, vector: int, most: int, device: torch.device) -> tuple[Tile, int]:
    """The tile, and into how many parts K is split, that take the least time by a simple model."""
    if vector == 1:
        return INT16, 1
    stages = -(-product.k // STAGE)
    least = -(-stages // (INT32_MOST // most // STAGE))

    def split(tile: Tile) -> int:
        room = tile.blocks * processors(device) // _tiles(product, tile)
        return max(least, min(room, stages // MIN_STAGES), 1)

    def time(tile: Tile) -> float:
        splits, at_once = split(tile), tile.blocks * processors(device)
        turns = -(-_tiles(product, tile) * splits // at_once)
        return turns * tile.blocks * tile.rows * tile.columns * tile.cost / splits

    if vector == 4:
        return NARROW, split(NARROW)
    tiles = [SMALL] if launcher().architecture(device) == 'sm_75' else [LARGE, SMALL]
    tile = min(tiles, key=time)
    return tile, split(tile)


def _depthwise(
    name: str,
    x: FixedPoint,
    y: FixedPoint,
    out: Tensor,
    finish: _Finish,
    geometry: Geometry,
    sizes: tuple[tuple[int, ...], tuple[int, ...], list[int]],
) -> None:
    """Launches a kernel of depthwise.cu; ``sizes`` of input, output and filter."""
    device, taps = out.device, math.prod(sizes[2])
    a, b, _ = _pair(x.mantissa, y.mantissa, 1, 1)
    a = _filled(a.permute(0, 2, 3, 1), 1, 1)
    images, _, _, channels = a.shape
    weight_grad = name == 'weight_grad'
    b = b.permute(0, 2, 3, 1) if weight_grad else b.permute(2, 3, 1, 0)
    parts, splits, across = None, 1, -(-channels // 32)
    if weight_grad:
        pixels = images * math.prod(sizes[1])
        splits = max(1, min(pixels // 64, 16 * processors(device) // (across * taps)))
        parts = torch.empty((splits, channels, taps), dtype=torch.int64, device=device)
        blocks = across * taps * splits
    else:
        blocks = across * -(-math.prod(out.shape[2:]) // 32) * images
    axes = zip(sizes[0], sizes[1], *geometry[:3], sizes[2], strict=True)
    arguments = [
        (a, b.contiguous(), out, parts, finish.arguments(), images, channels, splits, *axes)
    ]
    kernel = launcher().kernel('depthwise.cu', f'{name}_{8 * a.element_size()}', device)
    launcher().launch(kernel, (blocks, 1, 1), (THREADS, 1, 1), 0, arguments, device)
    if weight_grad:
        run('depthwise.cu', 'add_weight_parts', out.numel() // THREADS, THREADS, arguments, device)
