"""Convolution and transposed convolution: paper section 3.3.

The input is mapped once and serves the forward pass and the weight gradient; the incoming gradient
is mapped once and serves both gradients; of the weight see `weights`. A transposed convolution is a
convolution's input gradient, and the other way round, so both share the same three integer
products.

None of the three sums over groups: input, weight and gradient have an exponent for each, where they
are free; of a depthwise convolution that is one a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.autograd import Function

from ..backends import Geometry
from ..numerics import FixedPoint, Role
from . import volumes
from .bias import add_bias
from .derivative import first_derivative
from .fork import use
from .mapper import Mapper, along_axis
from .planes import map_planes
from .saved import mapped, restore, save
from .sharing import shared
from .weights import Weights


def conv(
    x: Tensor,
    weight: Tensor,
    mapped_weight: Weights,
    bias: Tensor | None,
    geometry: Geometry,
    mapper: Mapper,
) -> Tensor:
    """Integer convolution of float32 ``x`` (N, C, ...), of one to three axes, as (N, O, ...).

    Args:
        weight: float32 ``(O, C / groups, *kernel)``: where the weight gradient goes.
        mapped_weight: ``weight`` for both passes, by `map_weight`.
        bias: float32 (O,) or None.
    """
    out = _Conv.apply(use(x, mapper), weight, bias, mapped_weight, geometry, mapper)
    return shared(out, mapper, weight, bias)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    mapped_weight: Weights,
    bias: Tensor | None,
    geometry: Geometry,
    output_padding: Sequence[int],
    mapper: Mapper,
) -> Tensor:
    """Integer transposed convolution; ``weight`` is ``(C, O / groups, *kernel)``, else as
    `conv`."""
    kernel = weight.shape[2:]
    axes = (
        (x.shape[2 + i] - 1) * geometry.stride[i]
        - 2 * geometry.padding[i]
        + geometry.dilation[i] * (kernel[i] - 1)
        + output_padding[i]
        + 1
        for i in range(len(kernel))
    )
    size = (x.shape[0], weight.shape[1] * geometry.groups, *axes)
    for i, length in enumerate(size[2:]):
        if length < 1:
            raise ValueError(
                f'{mapper.site.name} was given an input of shape {tuple(x.shape)}, whose result '
                f'would have {length} elements in dimension {2 + i}, at least 1 is accepted: use '
                'larger inputs or less padding'
            )
    x = use(x, mapper)
    out = _ConvTranspose.apply(x, weight, bias, mapped_weight, geometry, size, mapper)
    return shared(out, mapper, weight, bias)


class _Conv(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mapped_weight: Weights,
        geometry: Geometry,
        mapper: Mapper,
    ) -> Tensor:
        _check_fits(x, weight, geometry, mapper)
        mapped_x = _map_images(x, Role.INPUT, geometry, mapper)
        save(ctx, mapped_x, mapped_weight.gradient)
        ctx.mapper, ctx.geometry, ctx.takes_sources = mapper, geometry, True
        ctx.sizes = tuple(x.shape), tuple(weight.shape)
        backend, filters = mapper.backend(x), mapped(mapped_weight.forward)
        product = partial(volumes.conv, backend, mapped_x, filters, geometry)
        return add_bias(product, bias, mapper)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = restore(ctx)
        backend = ctx.mapper.backend(grad)
        mapped_grad = _map_images(grad, Role.GRADIENT, ctx.geometry, ctx.mapper)
        size, weight_size = ctx.sizes
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        return (
            volumes.conv_input_grad(backend, mapped_grad, mapped(weight), size, ctx.geometry)
            if needs_x
            else None,
            volumes.conv_weight_grad(backend, mapped_grad, x, weight_size, ctx.geometry)
            if needs_weight
            else None,
            backend.channel_sum(mapped_grad, 1) if needs_bias else None,
            None, None, None,
        )  # fmt: skip


class _ConvTranspose(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mapped_weight: Weights,
        geometry: Geometry,
        size: tuple[int, ...],
        mapper: Mapper,
    ) -> Tensor:
        mapped_x = _map_images(x, Role.INPUT, geometry, mapper)
        save(ctx, mapped_x, mapped_weight.gradient)
        ctx.mapper, ctx.geometry, ctx.weight_size = mapper, geometry, tuple(weight.shape)
        backend, filters = mapper.backend(x), mapped(mapped_weight.forward)
        product = partial(volumes.conv_input_grad, backend, mapped_x, filters, size, geometry)
        return add_bias(product, bias, mapper)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = restore(ctx)
        backend = ctx.mapper.backend(grad)
        mapped_grad = _map_images(grad, Role.GRADIENT, ctx.geometry, ctx.mapper)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        return (
            volumes.conv(backend, mapped_grad, mapped(weight), ctx.geometry) if needs_x else None,
            volumes.conv_weight_grad(backend, x, mapped_grad, ctx.weight_size, ctx.geometry)
            if needs_weight
            else None,
            backend.channel_sum(mapped_grad, 1) if needs_bias else None,
            None, None, None, None,
        )  # fmt: skip


def _map_images(x: Tensor, role: Role, geometry: Geometry, mapper: Mapper) -> FixedPoint:
    """Maps ``x`` with an exponent for each group: plane by plane where a group is a channel."""
    groups = geometry.groups
    if 1 < groups == x.shape[1]:
        return map_planes(x, role, mapper, (1, groups))
    return mapper(x, role, along_axis(x, 1, groups))


def _check_fits(x: Tensor, weight: Tensor, geometry: Geometry, mapper: Mapper) -> None:
    """Raises ValueError if the padded input is smaller than the dilated kernel."""
    for i in range(len(geometry.stride)):
        reach = geometry.dilation[i] * (weight.shape[2 + i] - 1) + 1
        if x.shape[2 + i] + 2 * geometry.padding[i] < reach:
            raise ValueError(
                f'{mapper.site.name} was given an input of shape {tuple(x.shape)}, with its '
                f'padding at least {reach} in dimension {2 + i} is accepted: use larger images'
            )
