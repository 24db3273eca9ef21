"""The largest magnitude of a tensor, remembered by the kernel that wrote it.

A mapping needs the largest magnitude of its tensor before it rounds the first element. A kernel
that notes it on its way out (`notes`) spares the mapping a pass over memory.
"""

from __future__ import annotations

from torch import Tensor

from .notes import note, noted


def remember_magnitude(x: Tensor, magnitude: int | Tensor) -> None:
    """Notes the largest magnitude of ``x``: ``max(bits(x) & 0x7fffffff)``, 0 for an empty tensor.

    Args:
        x: float32, any shape.
        magnitude: an int, or on a GPU an int32 tensor of one element there, which nobody waits for.
    """
    note(_holder(x), 'magnitude', magnitude)


def known_magnitude(x: Tensor) -> int | Tensor | None:
    """What `remember_magnitude` noted of ``x``, as it is now, under this or another shape."""
    return noted(_holder(x), 'magnitude')


def _holder(x: Tensor) -> Tensor:
    """The tensor that ``x`` reshapes, with all of its elements, each once; or ``x`` itself."""
    base = x._base
    if base is None or x.numel() != base.numel() or x.dtype != base.dtype:
        return x
    return base if x.is_contiguous() and base.is_contiguous() else x
