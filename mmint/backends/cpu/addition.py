"""Addition of two tensors: arguments of the kernel in addition.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import RandomBits
from ..reference.addition import check_operands
from ..tops import known_top, remember_top
from .kernels import ready
from .operands import check_finite, words


def add(
    x: Tensor, y: Tensor, bits: int, random: RandomBits | None, inplace: bool = False
) -> Tensor:
    """As `mmint.backends.reference.add`."""
    check_operands(x, y)
    tops = [-1 if top is None else top for top in (known_top(x), known_top(y))]
    left, right = x.detach().contiguous(), y.detach().contiguous()
    out = left if inplace else torch.empty_like(left)
    top = ready().add(
        left.data_ptr(), right.data_ptr(), out.data_ptr(), x.numel(), bits, *tops,
        *words(random), torch.get_num_threads(),
    )  # fmt: skip
    check_finite(top)
    if inplace:
        if out.data_ptr() != x.data_ptr():
            x.copy_(out)
        out = x
    remember_top(out, top)
    return out
