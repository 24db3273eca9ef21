"""Addition of two tensors: arguments of the kernel in addition.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import RandomBits
from ..host.checks import check_operands
from ..host.exponents import blocks
from ..magnitudes import remember_magnitude
from ..source import Unwritten
from .library import ready
from .operands import check_finite, random_words
from .source import with_source


def add(
    x: Tensor | Unwritten,
    y: Tensor | Unwritten,
    bits: int,
    random: RandomBits | None,
    exponents: tuple[int, ...] = (),
    inplace: bool = False,
) -> Tensor:
    """As `Backend.add`."""
    check_operands(x, y)
    left, right = _operand(x), _operand(y)
    count, run = blocks(x.shape, exponents)
    out = left if inplace else torch.empty(x.shape, dtype=torch.float32)
    assert isinstance(out, Tensor)  # what is changed in place lies in memory
    top = ready().add(
        **with_source('x', left), **with_source('y', right), out=out, count=count, run=run,
        bits=bits, **random_words(random), threads=torch.get_num_threads(),
    )  # fmt: skip
    check_finite(top)
    if inplace:
        assert isinstance(x, Tensor)
        if out.data_ptr() != x.data_ptr():
            x.copy_(out)
        out = x
    remember_magnitude(out, top)
    return out


def _operand(x: Tensor | Unwritten) -> Tensor | Unwritten:
    """What the kernel reads."""
    return x.detach().contiguous() if isinstance(x, Tensor) else x
