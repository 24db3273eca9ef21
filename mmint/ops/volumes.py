"""Convolutions of one, two and three dimensions by those of images: exact rearrangements.

Those of images are the backend's own. In a volume (N, C, D, H, W) each output position d' along
depth is an image, whose channels are the slices that the kernel's kD taps meet there:

    stacked[n * D' + d', k * C + c] = x[n, c, d' * stride - padding + k * dilation], 0 outside

So one convolution of images with kD * C channels sums over depth too: integers all the way, then
one rounding to float32. The input gradient is likewise one of images with kD * O channels, slices
of the incoming gradient, and the weight gradient one with the stacked input. With groups, channels
are ordered by group, tap, channel. A signal (N, C, L) is a volume of depth and height 1.

Where ``stride > 1`` leaves a slice of the input gradient out of a tap's reach, zeros are stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..backends import Backend, Geometry
from ..backends.magnitudes import known_magnitude, remember_magnitude
from ..numerics import FixedPoint, RandomBits

Slices = list[tuple[slice, slice]]


def conv(
    backend: Backend,
    x: FixedPoint,
    weight: FixedPoint,
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `Backend.conv2d`, of 3 to 5 dimensions."""
    if x.mantissa.dim() == 4:
        return backend.conv2d(x, weight, geometry, bias, random)
    shape, kernel = x.mantissa.shape, weight.mantissa.shape
    size = (shape[0], kernel[0], *geometry.output_size(shape[2:], kernel[2:]))
    depth, images = _split(geometry, shape, size, kernel)
    filters = _deep(weight.mantissa).movedim(2, 1).flatten(1, 2)
    stacked = _stacked(x, depth.positions, depth.inputs(), geometry.groups)
    out = backend.conv2d(stacked, _replaced(weight, filters), images, bias, random)
    return _joined(out, size)


def conv_input_grad(
    backend: Backend,
    grad: FixedPoint,
    weight: FixedPoint,
    input_size: Sequence[int],
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `Backend.conv2d_input_grad`, of 3 to 5 dimensions."""
    n, c, *size = input_size
    if len(size) == 2:
        image_size = n, c, size[0], size[1]
        return backend.conv2d_input_grad(grad, weight, image_size, geometry, bias, random)
    depth, images = _split(geometry, input_size, grad.mantissa.shape, weight.mantissa.shape)
    filters = _deep(weight.mantissa).unflatten(0, (geometry.groups, -1))
    filters = filters.movedim(3, 1).flatten(0, 2)
    stacked = _stacked(grad, depth.size, depth.outputs(), geometry.groups)
    height, width = _deep_size(input_size)[3:]
    out = backend.conv2d_input_grad(
        stacked,
        _replaced(weight, filters),
        (n * depth.size, c, height, width),
        images,
        bias,
        random,
    )
    return _joined(out, input_size)


def conv_weight_grad(
    backend: Backend,
    grad: FixedPoint,
    x: FixedPoint,
    weight_size: Sequence[int],
    geometry: Geometry,
) -> Tensor:
    """As `Backend.conv2d_weight_grad`, of 3 to 5 dimensions."""
    if len(weight_size) == 4:
        o, c, height, width = weight_size
        return backend.conv2d_weight_grad(grad, x, (o, c, height, width), geometry)
    depth, images = _split(geometry, x.mantissa.shape, grad.mantissa.shape, weight_size)
    o, c, taps, height, width = _deep_size(weight_size)
    stacked = _stacked(x, depth.positions, depth.inputs(), geometry.groups)
    each = slice(None), slice(None)
    grads = _stacked(grad, depth.positions, [each], 1)
    out = backend.conv2d_weight_grad(grads, stacked, (o, taps * c, height, width), images)
    return out.unflatten(1, (taps, c)).movedim(1, 2).contiguous().view(*weight_size)


class _Depth(NamedTuple):
    """A convolution along depth: so many slices of input and output, so many taps."""

    size: int
    positions: int
    taps: int
    stride: int
    padding: int
    dilation: int

    def inputs(self) -> Slices:
        """For each tap: the positions where it meets the input, and the slices it meets there."""
        met = []
        for tap in range(self.taps):
            offset = tap * self.dilation - self.padding
            first = max(0, -(offset // self.stride))
            stop = max(first, min(self.positions, (self.size - 1 - offset) // self.stride + 1))
            start, end = (i * self.stride + offset for i in (first, stop))
            met.append((slice(first, stop), slice(start, end, self.stride)))
        return met

    def outputs(self) -> Slices:
        """The same the other way round."""
        return [(inputs, positions) for positions, inputs in self.inputs()]


def _split(
    geometry: Geometry, size: Sequence[int], grad_size: Sequence[int], weight_size: Sequence[int]
) -> tuple[_Depth, Geometry]:
    """The convolution along depth, and the one of images that is left."""
    stride, padding, dilation = (
        (neutral,) * (3 - len(given)) + tuple(given)
        for given, neutral in zip(geometry[:3], (1, 0, 1), strict=True)
    )
    slices, positions, taps = (_deep_size(each)[2] for each in (size, grad_size, weight_size))
    depth = _Depth(slices, positions, taps, stride[0], padding[0], dilation[0])
    return depth, Geometry(stride[1:], padding[1:], dilation[1:], geometry.groups)


def _stacked(x: FixedPoint, images: int, slices: Slices, groups: int) -> FixedPoint:
    """So many images of each of ``x``, with as many slices of it as channels, channels-last.

    Args:
        slices: which images get which slice of ``x``, each time; the others get zeros.
    """
    by_group = _deep(x.mantissa).movedim(1, -1).unflatten(-1, (groups, -1))
    n, _, height, width, _, channels = by_group.shape
    stacked = by_group.new_zeros(n, images, height, width, groups, len(slices), channels)
    for i, (to, source) in enumerate(slices):
        stacked[:, to, :, :, :, i] = by_group[:, source]
    return _replaced(x, stacked.flatten(4).flatten(0, 1).movedim(-1, 1))


def _replaced(x: FixedPoint, mantissa: Tensor) -> FixedPoint:
    """``mantissa``, of four dimensions, with the exponents of ``x``: one, or one for each group."""
    exponent = x.exponent
    if exponent.dim():
        exponent = exponent.view(*exponent.shape[:2], 1, 1)
    return FixedPoint(mantissa, exponent, x.bits)


def _joined(images: Tensor, size: Sequence[int]) -> Tensor:
    """The volumes or signals of ``size`` to which ``images`` belong, contiguous and no view."""
    n, c, depth, height, width = _deep_size(size)
    joined = images.view(n, depth, c, height, width).movedim(2, 1).contiguous().view(*size)
    joined = joined.data  # a view may not be changed in place once it is a layer's result
    magnitude = known_magnitude(images)
    if magnitude is not None:
        remember_magnitude(joined, magnitude)
    return joined


def _deep(x: Tensor) -> Tensor:
    """``x`` (N, C, L) or (N, C, D, H, W) with five dimensions."""
    return x.view(_deep_size(x.shape))


def _deep_size(size: Sequence[int]) -> tuple[int, ...]:
    n, c, *rest = size
    return (n, c, *[1] * (3 - len(rest)), *rest)
