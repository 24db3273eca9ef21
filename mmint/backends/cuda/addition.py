"""Addition of two tensors: arguments of the kernel in addition.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import RandomBits
from ..host.checks import check_operands
from ..host.exponents import blocks
from ..magnitudes import known_magnitude, remember_magnitude
from ..source import Unwritten
from . import finite
from .largest import magnitudes_of
from .launch import SERVED, THREADS, launch, words
from .launcher import Argument
from .source import written
from .zeroed import zeros

WARP, LONG_RUN = 32, 4096  # a run of fewer elements is the work of one warp


def add(
    x: Tensor | Unwritten,
    y: Tensor | Unwritten,
    bits: int,
    random: RandomBits | None,
    exponents: tuple[int, ...] = (),
    inplace: bool = False,
) -> Tensor:
    """As `Backend.add`; where an element is not finite, the sum is zeros."""
    check_operands(x, y)
    x, y = written(x), written(y)
    known = known_magnitude(x), known_magnitude(y)
    left, right = x.detach().contiguous(), y.detach().contiguous()
    out = left if inplace else torch.empty_like(left)
    n, device = x.numel(), x.device
    top = zeros((), torch.int32, device)
    count, run = blocks(x.shape, exponents)
    rest = bits, words(random, device), top, (finite.flag(device), finite.number(device))
    if count > 1:
        threads = WARP if run < LONG_RUN else THREADS
        launch(
            'addition.cu', 'add_each', count, threads, [left, right, out, count, run, *rest], device
        )
    elif n:
        operands = [_operand(*pair) for pair in zip((left, right), known, strict=True)]
        grid = -(-n // SERVED // THREADS)
        launch('addition.cu', 'add', grid, THREADS, [*operands, out, n, *rest], device)
    if inplace:
        if out.data_ptr() != x.data_ptr():
            x.copy_(out)
        out = x
    remember_magnitude(out, top)
    return out


def _operand(x: Tensor, largest: int | Tensor | None) -> tuple[Argument, ...]:
    """The struct ``operand`` of addition.cu."""
    magnitudes = magnitudes_of(x, largest)
    return x, magnitudes, magnitudes.numel()
