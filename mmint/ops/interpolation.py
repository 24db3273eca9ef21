"""RoIAlign and bilinear resizing in integers: `mmint.backends.reference.interpolation`.

Mantissas have 16 bits: nothing is kept for the backward pass, so that they cost no memory.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

from torch import Tensor
from torch.autograd import Function

from ..backends import NonFiniteError, Places, RoISampling
from ..backends.errors import naming
from ..backends.host.interpolation import ONE, most_weight
from ..numerics import Role
from .derivative import first_derivative
from .fork import use
from .mapper import SUM_BITS, Mapper

SUM_WIDTH = 35  # of a gradient's bits and those of the results that meet in a pixel, together
MOST_SAMPLES = 1 << 20  # of an axis, where their number does not depend on the box


def roi_align(x: Tensor, boxes: Tensor, sampling: RoISampling, mapper: Mapper) -> Tensor:
    """RoIAlign of float32 ``x`` (N, C, H, W); returns float32 (K, C, height, width).

    ``boxes`` (K, 5), float, are the number of an image, and left, upper, right, lower. An error is
    at most ``2**-14 * (h + w + 4)`` of the largest magnitude in ``x``, where a result covers h by w
    pixels: 2**-15 of it by the mapping, 2**-14 for each row and column that it reads by their
    weights.

    Raises:
        NonFiniteError: if ``x`` or a box is infinite or not a number, or its image is not there.
    """
    return _RoIAlign.apply(use(x, mapper), boxes, sampling, replace(mapper, bits=SUM_BITS))


def is_accepted(sampling: RoISampling) -> bool:
    """Whether `roi_align` takes this: the numbers of samples and results are bounded."""
    height, width = sampling.output_size
    fits = 0 < max(height, width) * max(1, sampling.sampling_ratio) <= MOST_SAMPLES
    return fits and min(height, width) > 0 and 0 < sampling.spatial_scale < math.inf


def resize(x: Tensor, places: Places, mapper: Mapper) -> Tensor:
    """Float32 ``x`` (N, C, H, W) read at ``places``; returns float32 (N, C, rows, columns).

    An error is at most 2**-12 of the largest magnitude in ``x``: 2**-15 of it by the mapping,
    2**-14 by the weights of each axis.

    Raises:
        NonFiniteError: if ``x`` is infinite or not a number.
    """
    return _Resize.apply(use(x, mapper), places, replace(mapper, bits=SUM_BITS))


@functools.lru_cache(maxsize=64)
def resizing_places(
    size: tuple[int, int],
    out_size: tuple[int, int],
    align_corners: bool,
    factors: tuple[float | None, float | None],
) -> Places:
    """Those of `torch.nn.functional.interpolate`, bilinear.

    Args:
        factors: by which an axis is resized, where that is not the quotient of its sizes.
    """
    rows, columns = (
        tuple(_place(i, *sizes, align_corners) for i in range(sizes[1]))
        for sizes in zip(size, out_size, factors, strict=True)
    )
    return Places(rows, columns)


def is_identity(places: Places, size: tuple[int, int]) -> bool:
    """Whether a resizing copies images of ``size``."""
    return all(axis == tuple(range(0, n * ONE, ONE)) for axis, n in zip(places, size, strict=True))


def _place(i: int, size: int, out_size: int, factor: float | None, align_corners: bool) -> int:
    if align_corners:
        place = Fraction(i * (size - 1), max(1, out_size - 1))
    else:
        step = Fraction(size, out_size) if factor is None else 1 / Fraction(factor)
        place = (i + Fraction(1, 2)) * step - Fraction(1, 2)
    return max(0, min((size - 1) * ONE, round(place * ONE)))


class _RoIAlign(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, boxes: Tensor, sampling: RoISampling, mapper: Mapper
    ) -> Tensor:
        ctx.save_for_backward(boxes)
        ctx.sampling, ctx.mapper, ctx.size = sampling, mapper, tuple(x.shape)
        mapped = mapper(x, Role.INPUT)
        with naming(lambda: _bad_boxes(mapper)):
            return mapper.backend(x).roi_align(mapped, boxes, sampling)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (boxes,) = ctx.saved_tensors
        results = len(boxes) * math.prod(ctx.sampling.output_size)
        mapper = _narrowed(ctx.mapper, results)
        mapped = mapper(grad, Role.GRADIENT)
        backend = mapper.backend(grad)
        return backend.roi_align_grad(mapped, boxes, ctx.size, ctx.sampling), None, None, None


class _Resize(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Places, mapper: Mapper) -> Tensor:
        ctx.places, ctx.mapper, ctx.size = places, mapper, tuple(x.shape)
        return mapper.backend(x).resize(mapper(x, Role.INPUT), places)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        mapper = _narrowed(ctx.mapper, most_weight(ctx.places))
        mapped = mapper(grad, Role.GRADIENT)
        return mapper.backend(grad).resize_grad(mapped, ctx.size, ctx.places), None, None


def _narrowed(mapper: Mapper, results: int) -> Mapper:
    """Maps gradients to as many bits as leave room for sums of so many results in a pixel."""
    return replace(mapper, bits=min(SUM_BITS, SUM_WIDTH - (results - 1).bit_length()))


def _bad_boxes(mapper: Mapper) -> NonFiniteError:
    return NonFiniteError(
        f'{mapper.site.name} was given boxes with infinite or NaN coordinates, or of images that '
        f'are not there, in iteration {mapper.moment.iteration}, finite boxes of its images are '
        'accepted: check the annotations of this iteration, then the learning rate and its warm-up'
    )
