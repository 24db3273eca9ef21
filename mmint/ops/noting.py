"""Magnitudes that kernels note of results which autograd then counts as changed."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from ..backends.magnitudes import remember_magnitude


def apply_noting_magnitude(function: type[Function], *args: Any) -> Tensor:
    """``function.apply(*args, magnitudes)``, whose forward appends that of its result, or None.

    It is remembered anew, since autograd counts a change in place after the kernel's.
    """
    magnitudes: list[int | Tensor | None] = []
    out = function.apply(*args, magnitudes)
    if magnitudes[0] is not None:
        remember_magnitude(out, magnitudes[0])
    return out
