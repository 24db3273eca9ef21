"""Convolutions and matrix products: what of them `schedule` and `depthwise` launch.

Where there is a bias, a launch of `prepare` before each and of `bias_alone` after it do what
concerns all of its sums (finish.cuh). Nothing waits for the device.
"""

from __future__ import annotations

import math

from torch import Tensor

from ...numerics import FixedPoint, RandomBits
from ..geometry import Geometry
from ..host.checks import check_matrices
from .depthwise import launch_depthwise
from .finish import Finish, most
from .operands import alike, empty, filled, lines
from .schedule import Axis, Product, axes, launch_product


def conv2d(
    x: FixedPoint,
    weight: FixedPoint,
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `Backend.conv2d`."""
    images, _, *size = x.mantissa.shape
    filters, channels, *taps = weight.mantissa.shape
    groups = geometry.groups
    height, width = geometry.output_size(size, taps)
    out = empty((images, filters, height, width), x)
    with Finish(
        out, x, weight, channels * math.prod(taps), bias, random, by_channel=True
    ) as finish:
        if out.numel() == 0:
            return out
        if channels == 1 and filters == groups:
            launch_depthwise(
                'forward', x, weight, out, finish, geometry, (size, (height, width), taps)
            )
            return out
        a, b, vector = alike(weight.mantissa, x.mantissa, channels, channels)
        a = filled(a.permute(0, 2, 3, 1), 1, vector)
        b = filled(b.permute(0, 2, 3, 1), groups, vector)
        channels = a.shape[3]
        k, rows, pixels = math.prod(taps) * channels, filters // groups, height * width
        launch_product('kk', vector, finish, most(x.bits, weight.bits), (a, b, out), Product(
            rows, images * pixels, k, rows * k, channels, rows * pixels, k, b.shape[3],
            channels, *axes(size, (height, width), taps, geometry), pixels, 1, images, groups,
            bias_problem=rows, out_image=filters * pixels, out_y=width,
        ))  # fmt: skip
    return out


def conv2d_input_grad(
    grad: FixedPoint,
    weight: FixedPoint,
    input_size: tuple[int, int, int, int],
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `Backend.conv2d_input_grad`."""
    images, all_channels, *size = input_size
    filters, channels, *taps = weight.mantissa.shape
    groups, grad_size = geometry.groups, tuple(grad.mantissa.shape[2:])
    out = empty(input_size, grad)
    rows, per_group = channels, filters // groups
    with Finish(
        out, grad, weight, per_group * math.prod(taps), bias, random, by_channel=True
    ) as finish:
        if out.numel() == 0:
            return out
        if channels == 1 and filters == groups:
            sizes = size, grad_size, taps
            launch_depthwise('input_grad', grad, weight, out, finish, geometry, sizes)
            return out
        a, b, vector = alike(weight.mantissa, grad.mantissa, per_group, per_group)
        a = a.view(groups, per_group, channels, *taps).permute(0, 2, 3, 4, 1)
        a = filled(a.reshape(groups * channels, *taps, per_group), 1, vector)
        b = filled(b.permute(0, 2, 3, 1), groups, vector)
        depth, pixels = a.shape[3], math.prod(size)
        k = math.prod(taps) * depth
        vertical, horizontal = (
            axis._replace(
                size=grad_size[i], positions=size[i], phases=axis.stride,
                period=axis.stride // math.gcd(axis.stride, axis.dilation),
            )
            for i, axis in enumerate(axes(size, grad_size, taps, geometry))
        )  # fmt: skip
        columns = images * math.prod(-(-a.positions // a.stride) for a in (vertical, horizontal))
        launch_product('kk', vector, finish, most(grad.bits, weight.bits), (a, b, out), Product(
            rows, columns, k, rows * k, depth, rows * pixels, k, b.shape[3], depth,
            vertical, horizontal, pixels, 1, images, groups, backward=True, bias_problem=rows,
            out_image=all_channels * pixels, out_y=size[1],
        ))  # fmt: skip
    return out


def conv2d_weight_grad(
    grad: FixedPoint,
    x: FixedPoint,
    weight_size: tuple[int, int, int, int],
    geometry: Geometry,
) -> Tensor:
    """As `Backend.conv2d_weight_grad`."""
    filters, channels, *taps = weight_size
    groups, size, grad_size = geometry.groups, x.mantissa.shape[2:], grad.mantissa.shape[2:]
    images, rows = len(x.mantissa), filters // geometry.groups
    pixels = images * math.prod(grad_size)
    out = empty(weight_size, x)
    with Finish(out, grad, x, pixels, channel_dim=0) as finish:
        if out.numel() == 0:
            return out
        if channels == 1 and filters == groups:
            launch_depthwise('weight_grad', x, grad, out, finish, geometry, (size, grad_size, taps))
            return out
        a, b, vector = alike(grad.mantissa, x.mantissa, rows, channels)
        a = filled(a.permute(0, 2, 3, 1), groups, vector)
        b = filled(b.permute(0, 2, 3, 1), groups, vector)
        depth, window = b.shape[3] // groups, math.prod(taps)
        launch_product('rr', vector, finish, most(grad.bits, x.bits), (a, b, out), Product(
            rows, window * depth, pixels, a.shape[3] // groups, depth,
            rows * channels * window, a.shape[3], b.shape[3], depth,
            *axes(size, grad_size, taps, geometry), channels * window, window, images, groups,
            bias_problem=rows, out_y=1, out_width=channels,
        ))  # fmt: skip
    return out


def matmul(
    a: FixedPoint, b: FixedPoint, bias: Tensor | None = None, random: RandomBits | None = None
) -> Tensor:
    """As `Backend.matmul`."""
    check_matrices(a, b)
    *batch, m, k = a.mantissa.shape
    n = b.mantissa.shape[-1]
    out = empty((*batch, m, n), a)
    of_matrices = max(a.exponent.numel(), b.exponent.numel()) > 1 and b.exponent.dim() != 2
    members = n if of_matrices else None
    with Finish(out, a, b, k, bias, random, -1, members) as finish:
        if out.numel() == 0:
            return out
        left, right = (t.mantissa.reshape(math.prod(batch), *t.mantissa.shape[-2:]) for t in (a, b))
        a_along_k = left.stride(2) == 1 or left.stride(1) != 1
        b_along_k = a_along_k and right.stride(2) != 1
        if b_along_k:
            right = right.mT
        if not a_along_k:
            left = left.mT
        left, right, vector = alike(left, right, left.shape[2], right.shape[2])
        left, right = lines(left, vector), lines(right, vector)
        channels = right.shape[2]
        line = Axis(n if b_along_k else k, n if b_along_k else k)
        kind = ('k' if a_along_k else 'r') + ('k' if b_along_k else 'r')
        launch_product(kind, vector, finish, most(a.bits, b.bits), (left, right, out), Product(
            m, n if b_along_k else channels, channels if b_along_k else k,
            left.stride(0), right.stride(0), m * n, left.stride(1), right.stride(1), channels,
            Axis(1, 1), line, n, 1, problems=len(left), bias_problem=n * of_matrices,
            bias_row=0, bias_column=1, out_width=n,
        ))  # fmt: skip
    return out
