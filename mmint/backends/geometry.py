"""The geometry of a convolution."""

from __future__ import annotations

from typing import NamedTuple


class Geometry(NamedTuple):
    """Stride, zero padding and dilation, each (vertical, horizontal), and groups."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
