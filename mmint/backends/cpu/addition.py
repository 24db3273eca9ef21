"""Addition of two tensors: arguments of the kernel in addition.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import RandomBits
from ..host.checks import check_operands
from ..magnitudes import known_magnitude, remember_magnitude
from ..source import Source
from .library import ready
from .operands import check_finite, random_words
from .source import with_source


def add(
    x: Tensor | Source,
    y: Tensor | Source,
    bits: int,
    random: RandomBits | None,
    inplace: bool = False,
) -> Tensor:
    """As `Backend.add`."""
    check_operands(x, y)
    (left, top_x), (right, top_y) = _operand(x), _operand(y)
    out = left if inplace else torch.empty(x.shape, dtype=torch.float32)
    assert isinstance(out, Tensor)  # what is changed in place lies in memory
    top = ready().add(
        **with_source('x', left), **with_source('y', right), out=out, n=x.numel(), bits=bits,
        top_x=top_x, top_y=top_y, **random_words(random), threads=torch.get_num_threads(),
    )  # fmt: skip
    check_finite(top)
    if inplace:
        assert isinstance(x, Tensor)
        if out.data_ptr() != x.data_ptr():
            x.copy_(out)
        out = x
    remember_magnitude(out, top)
    return out


def _operand(x: Tensor | Source) -> tuple[Tensor | Source, int]:
    """What the kernel reads, and its largest magnitude, -1 where that is not known."""
    if isinstance(x, Source):
        return x, -1
    magnitude = known_magnitude(x)
    return x.detach().contiguous(), -1 if magnitude is None else int(magnitude)
