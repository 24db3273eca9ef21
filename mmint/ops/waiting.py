"""Which results and gradients wait, unwritten, for the operation that reads them."""

from __future__ import annotations

from torch import Tensor

from .deferred import deferring
from .fork import maker_of
from .scope import current_place


def waits(x: Tensor) -> bool:
    """Whether elements of the shape of ``x`` may wait for who reads them."""
    inside = current_place() is not None
    return inside and x.dim() == 4 and x.numel() > 0 and deferring()


def gradient_waits(x: Tensor) -> bool:
    """Whether the elements of the gradient of ``x`` wait, for an operation that takes sources."""
    return waits(x) and takes_sources(x)


def takes_sources(x: Tensor) -> bool:
    """Whether what is given the gradient of ``x`` reads elements that nobody has written.

    That is the operation that made ``x``, or where ``x`` is used a second time, the sum of the
    gradients; but a leaf's gradient is written, and PyTorch's own operations are given memory.
    """
    node, splits = maker_of(x)
    takes = getattr(node, 'takes_sources', None)
    return bool(takes) or (splits > 1 and takes is not None)
