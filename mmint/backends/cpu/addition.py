"""Addition of two tensors: arguments of the kernel in addition.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import RandomBits
from ..host.checks import check_operands
from ..magnitudes import known_magnitude, remember_magnitude
from .library import ready
from .operands import check_finite, random_words


def add(
    x: Tensor, y: Tensor, bits: int, random: RandomBits | None, inplace: bool = False
) -> Tensor:
    """As `Backend.add`."""
    check_operands(x, y)
    top_x, top_y = (-1 if m is None else int(m) for m in (known_magnitude(x), known_magnitude(y)))
    left, right = x.detach().contiguous(), y.detach().contiguous()
    out = left if inplace else torch.empty_like(left)
    top = ready().add(
        x=left, y=right, out=out, n=x.numel(), bits=bits, top_x=top_x, top_y=top_y,
        **random_words(random), threads=torch.get_num_threads(),
    )  # fmt: skip
    check_finite(top)
    if inplace:
        if out.data_ptr() != x.data_ptr():
            x.copy_(out)
        out = x
    remember_magnitude(out, top)
    return out
