"""The geometry of convolution and pooling windows, each pair (vertical, horizontal)."""

from __future__ import annotations

from typing import NamedTuple


class Geometry(NamedTuple):
    """Of a convolution: stride, zero padding, dilation and groups."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class Pooling(NamedTuple):
    """Of a pooling layer: kernel, stride, padding (at most half the kernel), rounding up."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil_mode: bool
