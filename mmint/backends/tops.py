"""The largest magnitude of a tensor, remembered by the kernel that wrote it.

A mapping needs the largest magnitude of its tensor before it rounds the first element. A kernel
that notes it on its way out (`notes`) spares the mapping a pass over memory.
"""

from __future__ import annotations

from torch import Tensor

from .notes import note, noted


def remember_top(x: Tensor, top: int | Tensor) -> None:
    """Notes that ``top == max(bits(x) & 0x7fffffff)`` (0 for an empty tensor), exactly.

    Args:
        x: float32, any shape.
        top: an int, or on a GPU an int32 tensor of one element there, which nobody waits for.
    """
    note(_holder(x), 'top', top)


def known_top(x: Tensor) -> int | Tensor | None:
    """What `remember_top` noted of ``x``, as it is now, under this or another shape."""
    return noted(_holder(x), 'top')


def _holder(x: Tensor) -> Tensor:
    """The tensor that ``x`` reshapes, with all of its elements, each once; or ``x`` itself."""
    base = x._base
    reshapes = (
        base is not None
        and x.numel() == base.numel()
        and x.dtype == base.dtype
        and x.is_contiguous()
        and base.is_contiguous()
    )
    return base if reshapes else x
