"""Elements of norms that nobody has written: arguments of the kernels that read or write them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..host.arguments import ceiling_pattern, pair
from ..magnitudes import remember_magnitude
from ..source import Masked, Source, Unwritten
from .activation import relu_grad
from .launch import THREADS, launch
from .launcher import Argument
from .zeroed import zeros

TILE_CHANNELS, TILE_PIXELS = 32, 128


def elements(source: Unwritten) -> Tensor:
    """As `Backend.elements`."""
    if isinstance(source, Masked):
        return relu_grad(source.x, source.passed)
    first, second = _mantissas(source)
    made, device = source.coefficients, first.device
    out = torch.empty(source.shape, dtype=torch.float32, device=device)
    top = zeros((), torch.int32, device)
    images, pixels, channels = first.shape
    if out.numel():
        launch(
            'norm.cu', f'combine_{8 * first.element_size()}',
            images * -(-channels // TILE_CHANNELS) * -(-pixels // TILE_PIXELS), THREADS,
            [(first, second, out, made, images, pixels, channels, int(len(made) != channels),
              ceiling_pattern(source.ceiling), top)], device,
        )  # fmt: skip
    remember_magnitude(out, top)
    return out


def _mantissas(source: Source) -> tuple[Tensor, Tensor | None]:
    """Those that elements are made of, contiguous (N, P, C), of one width."""
    if source.y is None:
        return channels_last(source.x.mantissa), None
    first, second, _ = pair(source.x, source.y)
    return channels_last(first), channels_last(second)


def written(x: Tensor | Unwritten) -> Tensor:
    """The elements in memory."""
    return x if isinstance(x, Tensor) else elements(x)


def relu_passed(source: Source) -> Tensor:
    """As `Backend.relu_passed`."""
    n, device = source.x.mantissa.numel(), source.x.mantissa.device
    out = torch.empty((n + 7) // 8, dtype=torch.uint8, device=device)
    if n:
        launch('activation.cu', 'relu_passed', -(-n // THREADS), THREADS,
               [words_of(source), out, n], device)  # fmt: skip
    return out


def words_of(x: Tensor | Unwritten) -> tuple[Argument, ...]:
    """The struct ``source`` of source.cuh: contiguous float32, or what makes it."""
    if isinstance(x, Tensor):
        return x, None, None, None, None, 0, 0, 0, 0, -1
    if isinstance(x, Masked):
        return x.x.detach().contiguous(), x.passed, None, None, None, 0, 0, 0, 0, -1
    mantissa, others = _mantissas(x)
    _, pixels, channels = mantissa.shape
    per_image = int(len(x.coefficients) != channels)
    wide = int(mantissa.dtype == torch.int16)
    ceiling = ceiling_pattern(x.ceiling)
    return None, None, mantissa, others, x.coefficients, channels, pixels, per_image, wide, ceiling


def channels_last(mantissa: Tensor) -> Tensor:
    """(N, C, ...) as contiguous (N, P, C): a view of what `map_planes` mapped."""
    images, channels, *image = mantissa.shape
    last = mantissa.movedim(1, -1).reshape(images, math.prod(image), channels)
    return last.contiguous()
