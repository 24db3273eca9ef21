"""Addition of two tensors: arguments of the kernel in addition.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import RandomBits
from ..host.arguments import words
from ..host.checks import check_operands
from ..magnitudes import known_magnitude, remember_magnitude
from .kernels import ready
from .operands import check_finite


def add(
    x: Tensor, y: Tensor, bits: int, random: RandomBits | None, inplace: bool = False
) -> Tensor:
    """As `Backend.add`."""
    check_operands(x, y)
    known = [-1 if m is None else int(m) for m in (known_magnitude(x), known_magnitude(y))]
    left, right = x.detach().contiguous(), y.detach().contiguous()
    out = left if inplace else torch.empty_like(left)
    top = ready().add(
        left.data_ptr(), right.data_ptr(), out.data_ptr(), x.numel(), bits, *known,
        *words(random), torch.get_num_threads(),
    )  # fmt: skip
    check_finite(top)
    if inplace:
        if out.data_ptr() != x.data_ptr():
            x.copy_(out)
        out = x
    remember_magnitude(out, top)
    return out
