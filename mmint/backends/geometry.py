"""The geometry of convolution and pooling windows, each pair (vertical, horizontal)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Geometry(NamedTuple):
    """Of a convolution: stride, zero padding, dilation and groups."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """Height and width of the output for an input of ``size``."""
        height, width = (
            (size[i] + 2 * self.padding[i] - self.dilation[i] * (kernel[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in (0, 1)
        )
        return height, width


class Pooling(NamedTuple):
    """Of a pooling layer: kernel, stride, padding (at most half the kernel), rounding up."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil_mode: bool


class Windows(NamedTuple):
    """Of average pooling: window (i, j) is rows ``rows[i]`` by columns ``columns[j]``, start, stop.

    ``divisors[i][j]``, at least the number of elements in the window, divides its sum.
    """

    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]
    divisors: tuple[tuple[int, ...], ...]
