"""The largest magnitude of a tensor, remembered by the kernel that wrote it.

A mapping needs the largest magnitude of its tensor before it rounds the first element. A kernel
that notes it on its way out (`notes`) spares the mapping a pass over memory.
"""

from __future__ import annotations

from torch import Tensor

from .host.exponents import blocks
from .notes import note, noted


def remember_magnitude(x: Tensor, magnitude: int | Tensor) -> None:
    """Notes the largest magnitude of ``x``: ``max(bits(x) & 0x7fffffff)``, 0 for an empty tensor.

    Args:
        x: float32, any shape.
        magnitude: an int, or on a GPU an int32 tensor there, which nobody waits for: of one
            element, or shaped as the exponents would be of which each has its own magnitude.
    """
    note(_holder(x), 'magnitude', magnitude)


def known_magnitude(x: Tensor) -> int | Tensor | None:
    """What `remember_magnitude` noted of ``x``, as it is now, under this or another shape.

    Of a tensor of several elements the largest counts.
    """
    return noted(_holder(x), 'magnitude')


def known_magnitudes(x: Tensor, exponents: tuple[int, ...]) -> Tensor | None:
    """The largest magnitudes of those elements of ``x`` that share an exponent, if noted so."""
    holder = _holder(x)
    known = noted(holder, 'magnitude')
    if not isinstance(known, Tensor) or known.dim() != holder.dim():
        return None
    alike = blocks(holder.shape, tuple(known.shape)) == blocks(x.shape, exponents)
    return known if alike else None


def _holder(x: Tensor) -> Tensor:
    """The tensor that ``x`` reshapes, with all of its elements, each once; or ``x`` itself."""
    base = x._base
    if base is None or x.numel() != base.numel() or x.dtype != base.dtype:
        return x
    return base if x.is_contiguous() and base.is_contiguous() else x
