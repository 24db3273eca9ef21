"""Addition of two tensors: arguments of the kernel in addition.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import RandomBits
from ..host.checks import check_operands
from ..magnitudes import known_magnitude, remember_magnitude
from ..source import Source
from . import finite
from .largest import magnitudes_of
from .launch import SERVED, THREADS, launch, words
from .launcher import Argument
from .source import written
from .zeroed import zeros


def add(
    x: Tensor | Source,
    y: Tensor | Source,
    bits: int,
    random: RandomBits | None,
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
    if n:
        operands = [_operand(*pair) for pair in zip((left, right), known, strict=True)]
        launch(
            'addition.cu', 'add', -(-n // SERVED // THREADS), THREADS,
            [*operands, out, top, n, bits, words(random, device), finite.flag(device),
             finite.number(device)],
            device,
        )  # fmt: skip
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
