"""The geometry of convolution and pooling windows, each pair (vertical, horizontal).

Backends convolve images; `mmint.ops.volumes` makes those of signals and volumes of them, whose
geometry has one number or three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Geometry(NamedTuple):
    """Of a convolution: stride, zero padding, dilation and groups."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """Height and width of the output for an input of ``size``."""
        return tuple(
            (size[i] + 2 * self.padding[i] - self.dilation[i] * (kernel[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in range(len(self.stride))
        )


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


class RoISampling(NamedTuple):
    """Of RoIAlign: the results of a box, and where its samples are.

    Attributes:
        output_size: height and width of the results.
        spatial_scale: pixels for each unit of a box's coordinates, positive.
        sampling_ratio: samples for each result along an axis, 0 for one a pixel, rounded up.
        aligned: whether coordinates count from pixels' corners, not from their centres; if not, a
            box is at least one pixel wide and high.
    """

    output_size: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int
    aligned: bool


class Places(NamedTuple):
    """Of a bilinear resizing: where the rows and columns of the result lie between the image's.

    In units of 2**-24 pixels, from 0 to that of the last one.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
