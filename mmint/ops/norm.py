"""Batch, group and layer norm: paper section 3.4.

The input is mapped once and serves both passes; of the forward pass its mantissas and their int64
sums are kept. Where processes share a batch's statistics they first agree on exponents, by the
maximum of their largest magnitudes, and then add integers: exact, in whatever order.

Exponents are free for each channel of batch norm, and each image and group of group norm, of input
and incoming gradient, and for each row of layer norm's input: over these nothing is summed before
it is a wide number. Layer norm's gradient has one, since its parameters' gradients are sums over
rows.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from ..backends import NonFiniteError, Running
from ..backends.errors import naming
from ..backends.magnitudes import known_magnitude
from ..numerics import FREE, FixedPoint, Role
from .deferred import deferred
from .derivative import first_derivative
from .fork import use
from .mapper import Mapper
from .planes import map_planes
from .sharing import shared
from .waiting import gradient_waits, waits


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    eps: float,
    mapper: Mapper,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Batch norm of float32 ``x`` (N, C, ...) with the statistics of the batch; returns float32.

    Args:
        weight, bias: float32 (C,) or None.
        running: None if there is nothing to update.
        group: the processes that share their statistics, None for this one alone. On a GPU the host
            then waits once a layer for how many values they have together: kernels take the number
            as an argument, and that it is large enough is checked before they start.

    Raises:
        ValueError: if there is but one value a channel.
    """
    if group is None and x.numel() == 0:  # no statistics, so any will do
        if running is not None and running.batches is not None:
            running.batches.add_(1)
        zero, one = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
        return frozen_norm(x, zero, one, weight, bias, eps, mapper)
    _check_dtypes(mapper, weight=weight, bias=bias, **_statistics(running))
    out = _BatchNorm.apply(use(x, mapper), weight, bias, running, eps, mapper, group)
    return shared(out, mapper, weight, bias)


def frozen_norm(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mapper: Mapper,
) -> Tensor:
    """Batch norm of float32 ``x`` (N, C, ...) with statistics ``mean`` and ``var`` (C,)."""
    _check_dtypes(mapper, weight=weight, bias=bias, running_mean=mean, running_var=var)
    out = _FrozenNorm.apply(use(x, mapper), weight, bias, mean, var, eps, mapper)
    return shared(out, mapper, weight, bias)


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, mapper: Mapper
) -> Tensor:
    """Group norm of float32 ``x`` (N, C, ...); parameters as for `batch_norm`."""
    _check_dtypes(mapper, weight=weight, bias=bias)
    out = _GroupNorm.apply(use(x, mapper), groups, weight, bias, None, eps, mapper)
    return shared(out, mapper, weight, bias)


def instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    eps: float,
    mapper: Mapper,
) -> Tensor:
    """Instance norm of float32 ``x`` (N, C, ...): group norm with one channel a group.

    Args:
        weight, bias: float32 (C,) or None.
        running: moved towards the means over images of their statistics; None if not tracked.

    Raises:
        ValueError: if there is but one value a channel and image.
    """
    if x.shape[2:].numel() == 1:
        raise ValueError(
            f'{mapper.site.name} was given an input of shape {tuple(x.shape)}, more than 1 value '
            'per channel and image is accepted: use larger images'
        )
    _check_dtypes(mapper, weight=weight, bias=bias, **_statistics(running))
    out = _GroupNorm.apply(use(x, mapper), x.shape[1], weight, bias, running, eps, mapper)
    return shared(out, mapper, weight, bias)


def layer_norm(
    x: Tensor,
    size: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mapper: Mapper,
) -> Tensor:
    """Layer norm of float32 ``x`` over ``size`` elements at a time; parameters (size,) or None."""
    _check_dtypes(mapper, weight=weight, bias=bias)
    rows = use(x, mapper).reshape(-1, size)
    out = _LayerNorm.apply(rows, weight, bias, eps, mapper)
    return shared(out, mapper, weight, bias).view(x.shape)


class _BatchNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: Running | None,
        eps: float,
        mapper: Mapper,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        exponents = 1, x.shape[1]
        mapped = map_planes(x, Role.INPUT, mapper, exponents, _joint_top(x, group, mapper))
        backend = mapper.backend(x)
        sums = backend.plane_sums(mapped, joined=True)
        count = x.numel() // x.shape[1]
        if group is not None:
            counted = torch.cat([sums.flatten(), sums.new_tensor([count])])
            dist.all_reduce(counted, group=group)
            sums, count = counted[:-1].view(sums.shape), int(counted[-1])
        if count < 2:
            raise ValueError(
                f'{mapper.site.name} was given an input of shape {tuple(x.shape)}, in training '
                'more than 1 value per channel is accepted: use a larger batch or image, or .eval()'
            )
        _keep(ctx, x, mapper, eps, mapped, sums, weight)
        ctx.count, ctx.group = count, group
        with _naming_not_finite(mapper, weight=weight, bias=bias, **_statistics(running)):
            if waits(x):
                return deferred(
                    backend.batch_norm_source(mapped, sums, count, weight, bias, eps, running)
                )
            return backend.batch_norm(mapped, sums, count, weight, bias, eps, running)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mapper, eps, (x, sums, weight) = _kept(ctx)
        backend = mapper.backend(grad)
        top = _joint_top(grad, ctx.group, mapper)
        mapped = map_planes(grad, Role.GRADIENT, mapper, (1, grad.shape[1]), top)
        products = own = backend.plane_products(mapped, x, joined=True)
        if ctx.group is not None:  # parameters' gradients are averaged, as they all are
            products = own.clone()
            dist.all_reduce(products, group=ctx.group)
        arguments = mapped, x, sums, products, ctx.count, weight, eps, own
        if ctx.gradient_waits:
            source, *others = backend.batch_norm_grad_source(*arguments)
            grads = deferred(source), *others
        else:
            grads = backend.batch_norm_grad(*arguments)
        needs = ctx.needs_input_grad[:3]
        return *(g if n else None for g, n in zip(grads, needs, strict=True)), *[None] * 4


class _FrozenNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        eps: float,
        mapper: Mapper,
    ) -> Tensor:
        mapped = map_planes(x, Role.INPUT, mapper, (1, x.shape[1]))
        needs_weight = ctx.needs_input_grad[1]
        _keep(ctx, x, mapper, eps, mapped if needs_weight else None, weight, mean, var)
        with _naming_not_finite(
            mapper, weight=weight, bias=bias, running_mean=mean, running_var=var
        ):
            backend = mapper.backend(x)
            if waits(x):
                return deferred(backend.frozen_norm_source(mapped, mean, var, weight, bias, eps))
            return backend.frozen_norm(mapped, mean, var, weight, bias, eps)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mapper, eps, (x, weight, mean, var) = _kept(ctx)
        backend = mapper.backend(grad)
        mapped = map_planes(grad, Role.GRADIENT, mapper, (1, grad.shape[1]))
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dx = dweight = dbias = None
        if needs_x and ctx.gradient_waits:
            dx = deferred(backend.frozen_norm_grad_source(mapped, var, weight, eps))
        elif needs_x:
            dx = backend.frozen_norm_grad(mapped, var, weight, eps)
        if needs_weight:
            products = backend.plane_products(mapped, x, joined=True)
            dweight = backend.frozen_norm_weight_grad(mapped, x, products, mean, var, eps)
        if needs_bias:
            dbias = backend.channel_sum(mapped, 1)
        return dx, dweight, dbias, None, None, None, None


class _GroupNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        running: Running | None,
        eps: float,
        mapper: Mapper,
    ) -> Tensor:
        images, channels = x.shape[:2]
        mapped = map_planes(x, Role.INPUT, mapper, (images, groups))
        backend = mapper.backend(x)
        planes = backend.plane_sums(mapped)
        sums = planes.view(2, images, groups, channels // groups).sum(3)
        _keep(ctx, x, mapper, eps, mapped, sums, weight)
        if running is not None:
            mean, var, momentum, _ = running
            with _naming_not_finite(mapper, **_statistics(running)):
                for i, part in enumerate(_parts(momentum, images)):
                    of_image = planes[:, i].contiguous()
                    exponent = (
                        mapped.exponent[i : i + 1] if mapped.exponent.dim() else mapped.exponent
                    )
                    one = mapped._replace(exponent=exponent)
                    backend.update_running(mean, var, one, of_image, x[0, 0].numel(), part)
        with _naming_not_finite(mapper, weight=weight, bias=bias):
            if waits(x):
                return deferred(backend.group_norm_source(mapped, sums, weight, bias, eps))
            return backend.group_norm(mapped, sums, weight, bias, eps)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mapper, eps, (x, sums, weight) = _kept(ctx)
        backend = mapper.backend(grad)
        mapped = map_planes(grad, Role.GRADIENT, mapper, tuple(sums.shape[1:]))
        products = backend.plane_products(mapped, x)
        arguments = mapped, x, sums, products, weight, eps
        if ctx.gradient_waits:
            source, *others = backend.group_norm_grad_source(*arguments)
            grads = deferred(source), *others
        else:
            grads = backend.group_norm_grad(*arguments)
        needs = (ctx.needs_input_grad[i] for i in (0, 2, 3))
        dx, dweight, dbias = (g if n else None for g, n in zip(grads, needs, strict=True))
        return dx, None, dweight, dbias, None, None, None


class _LayerNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        mapper: Mapper,
    ) -> Tensor:
        mapped = mapper(x, Role.INPUT, (len(x), 1))
        with _naming_not_finite(mapper, weight=weight, bias=bias):
            out, sums = mapper.backend(x).layer_norm(mapped, weight, bias, eps)
        _keep(ctx, x, mapper, eps, mapped, sums, weight)
        return out

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mapper, eps, (x, sums, weight) = _kept(ctx)
        mapped = mapper(grad, Role.GRADIENT)
        grads = mapper.backend(grad).layer_norm_grad(mapped, x, sums, weight, eps)
        needs = ctx.needs_input_grad[:3]
        return *(g if n else None for g, n in zip(grads, needs, strict=True)), None, None


def _parts(momentum: float, images: int) -> list[float]:
    """How far running statistics move towards each image's, so that all count alike in the end.

    Each next one shrinks those before by ``1 - part``; all have ``momentum / images`` at last.
    """
    share = momentum / images if images else 0.0
    return [share / (1 - share * left) for left in reversed(range(images))]


def _keep(
    ctx: Any,
    x: Tensor,
    mapper: Mapper,
    eps: float,
    kept: FixedPoint | None,
    *others: Tensor | None,
) -> None:
    """Keeps for the backward pass of a norm of ``x`` what `_kept` gives it."""
    mantissa, exponent, _ = (None, None, None) if kept is None else kept
    ctx.save_for_backward(mantissa, exponent, *others)
    ctx.mapper, ctx.eps = mapper, eps
    ctx.gradient_waits, ctx.takes_sources = gradient_waits(x), True


def _kept(ctx: Any) -> tuple[Mapper, float, tuple[Any, ...]]:
    """What `_keep` kept: the mapper, eps, the fixed-point input and the other tensors."""
    mantissa, exponent, *others = ctx.saved_tensors
    x = FixedPoint(mantissa, exponent, ctx.mapper.bits)
    return ctx.mapper, ctx.eps, (x, *others)


def _joint_top(x: Tensor, group: dist.ProcessGroup | None, mapper: Mapper) -> Tensor | None:
    """The largest bit patterns of a magnitude, of each channel where exponents are free.

    They are those of any process's ``x`` (N, C, ...); None for this process alone.
    """
    if group is None:
        return None
    channels = x.shape[1] if mapper.exponents == FREE else 1
    top = known_magnitude(x) if channels == 1 else None
    if isinstance(top, Tensor):
        top = top.max()
    if top is None:
        magnitudes = x.contiguous().view(torch.int32) & 0x7FFFFFFF
        planes = magnitudes.reshape(len(x), channels, -1)
        top = planes.amax((0, 2)) if x.numel() else magnitudes.new_zeros(channels)
    top = torch.as_tensor(top, dtype=torch.int32, device=x.device).clone()
    dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
    return top


def _statistics(running: Running | None) -> dict[str, Tensor]:
    """Running statistics under the names of their buffers."""
    return {} if running is None else dict(running_mean=running.mean, running_var=running.var)


def _check_dtypes(mapper: Mapper, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype != torch.float32:
            raise TypeError(
                f'{mapper.site.name} was given a {name} of {tensor.dtype}, torch.float32 is '
                'accepted: convert the model with .float()'
            )


def _naming_not_finite(mapper: Mapper, **tensors: Tensor | None) -> AbstractContextManager[None]:
    """Lets a `NonFiniteError` of the backend name the parameter or statistic that is to blame."""

    def error() -> NonFiniteError:
        for role in (Role.WEIGHT, Role.BIAS):
            tensor = tensors.pop(role.name.lower(), None)
            if tensor is not None and not tensor.isfinite().all():
                return mapper.not_finite(role)
        return NonFiniteError(
            f'{mapper.site.name} has {" and ".join(tensors)} with infinite, NaN or negative values '
            f'in iteration {mapper.moment.iteration}, finite ones and variances from 0 are '
            'accepted: check the checkpoint, then the images and the learning rate'
        )

    return naming(error)
