"""The part of the contract about reading images between their pixels."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..numerics import FixedPoint
from .geometry import Places, RoISampling


class Interpolation(Protocol):
    """RoIAlign and bilinear resizing."""

    def roi_align(self, x: FixedPoint, boxes: Tensor, sampling: RoISampling) -> Tensor:
        """RoIAlign of ``x`` (N, C, H, W), as float32 (K, C, height, width) of results.

        Where all samples of a result lie in the image, its weights add up to 1; each weight is off
        by less than 2**-14 of that, and a sample's position by less than 2**-23 pixels.

        Args:
            boxes: (K, 5): the number of an image, and left, upper, right, lower.

        Raises:
            NonFiniteError: if a box is infinite or not a number, or its image is not there.
        """

    def roi_align_grad(
        self,
        grad: FixedPoint,
        boxes: Tensor,
        input_size: tuple[int, int, int, int],
        sampling: RoISampling,
    ) -> Tensor:
        """Gradient of `roi_align` for its input, of shape ``input_size``, as float32.

        It is exact for up to 2**(35 - bits) results a channel, all boxes together.
        """

    def resize(self, x: FixedPoint, places: Places) -> Tensor:
        """``x`` (N, C, H, W) read at ``places``, as float32 (N, C, rows, columns).

        Weights as in `roi_align`.
        """

    def resize_grad(
        self, grad: FixedPoint, input_size: tuple[int, int, int, int], places: Places
    ) -> Tensor:
        """Gradient of `resize` for its input, of shape ``input_size``, as float32.

        It is exact for up to 2**(35 - bits) results a channel that read one pixel.
        """
