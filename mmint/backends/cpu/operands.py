"""What the kernels take and return: operands, groups of arguments, statuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...numerics import FixedPoint, NonFiniteError, RandomBits
from ..host.arguments import pair
from ..host.exponents import by_group
from .library import ready

TO_NEAREST = {'stochastic': 0, 'k0': 0, 'k1': 0, 'c1': 0, 'c2': 0, 'c3': 0}


def to_planar(mantissa: Tensor) -> Tensor:
    """Contiguous in memory: `contiguous`, faster for a channels-last image."""
    channels_last = mantissa.is_contiguous(memory_format=torch.channels_last)
    if mantissa.is_contiguous() or mantissa.dtype != torch.int8 or not channels_last:
        return mantissa.contiguous()
    images, channels, height, width = mantissa.shape
    out = torch.empty(mantissa.shape, dtype=torch.int8)
    _transpose(mantissa, out, images, height * width, channels)
    return out


def to_channels_last(mantissa: Tensor) -> Tensor:
    """Channels-last in memory, of an image: faster where it is contiguous."""
    channels_last = mantissa.is_contiguous(memory_format=torch.channels_last)
    if channels_last or mantissa.dtype != torch.int8 or not mantissa.is_contiguous():
        return mantissa.contiguous(memory_format=torch.channels_last)
    images, channels, height, width = mantissa.shape
    out = torch.empty(mantissa.shape, dtype=torch.int8, memory_format=torch.channels_last)
    _transpose(mantissa, out, images, channels, height * width)
    return out


def _transpose(x: Tensor, out: Tensor, images: int, rows: int, columns: int) -> None:
    ready().transpose(
        x=x, out=out, images=images, rows=rows, columns=columns, threads=torch.get_num_threads()
    )


def planar_pair(a: FixedPoint, b: FixedPoint) -> tuple[Tensor, Tensor, bool]:
    """As `pair`, and contiguous in memory."""
    left, right, wide = pair(a, b)
    return to_planar(left), to_planar(right), wide


def random_words(random: RandomBits | None) -> dict[str, int]:
    """The arguments that say whether to round stochastically, and with which bits."""
    if random is None:
        return TO_NEAREST
    k0, k1, c1, c2, c3 = random.words()
    return {'stochastic': 1, 'k0': k0, 'k1': k1, 'c1': c1, 'c2': c2, 'c3': c3}


def with_exponents(name: str, x: FixedPoint) -> dict[str, Any]:
    """The arguments that give the exponents of ``x``, one for each group."""
    exponents, step = by_group(x)
    return {name: exponents, f'{name}_step': step}


def with_exponent(name: str, number: tuple[int, int]) -> dict[str, int]:
    """The arguments that give a number as a mantissa and an exponent."""
    return {name: number[0], f'{name}_exponent': number[1]}


def check_finite(result: int) -> int:
    """What a kernel returned, unless it is that a value was not finite."""
    if result == ready().NOT_FINITE:
        raise NonFiniteError
    return result
