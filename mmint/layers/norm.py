"""Integer norms."""

from __future__ import annotations

import math
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..backends import Running
from ..numerics import Role
from ..ops import Mapper, batch_norm, frozen_norm, group_norm, instance_norm, layer_norm
from ..ops.opaque import opaque
from ..ops.run import current_run
from ..ops.scope import is_training
from .base import IntLayer


class IntNorm(IntLayer):
    """What integer norms share.

    They round stochastically in training, and frozen within a model that trains, so that gradients
    of the layers around them are unbiased too; to nearest otherwise.
    """

    eps: float

    @classmethod
    def check(cls, module: nn.Module) -> None:
        """See `IntLayer.check`; an integer reciprocal square root needs a positive ``eps``."""
        eps: Any = module.eps
        if not eps > 0:
            raise ValueError(
                f'eps={eps!r} was given to a {type(module).__name__}, positive numbers are '
                'accepted: set it to 1e-5, or exclude the layer from conversion'
            )

    def mapper(self) -> Mapper:
        """The mapper of one call of this layer."""
        call = current_run.next_call(self.site.number, Role.INPUT)
        stochastic = self.training or (is_training() and current_run.gradients_enabled())
        return Mapper(self.site, self.bits, stochastic, call, self.exponents)


class IntBatchNorm(IntNorm, _BatchNorm):
    """Batch norm in integer arithmetic, of float32 (N, C, ...) with any number of dimensions.

    Takes the arguments of `torch.nn.BatchNorm2d`, ``bits`` and ``exponents`` (`IntLayer`). In
    training it normalises with the batch's statistics and updates the running ones; in evaluation,
    or where a detector freezes it, with the running ones.

    Its subclasses name `_BatchNorm` among their bases, where mmengine's initializers look for it.
    """

    dims: tuple[int, ...] = ()
    running_mean: Any  # a tensor, or None as the others where nothing is tracked
    running_var: Any
    num_batches_tracked: Any

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.BatchNorm2d`."""
        self.check_input(x, self.dims, 1, self.num_features)
        mapper = self.mapper()
        if not self.training and self.running_mean is not None:
            statistics = self.running_mean, self.running_var
            return frozen_norm(x, *statistics, self.weight, self.bias, self.eps, mapper)
        running = None
        if self.training and self.track_running_stats:
            momentum = self.momentum
            if momentum is None:  # a plain average over all batches
                momentum = 1 / (1 + int(self.num_batches_tracked))
            running = Running(
                self.running_mean, self.running_var, momentum, self.num_batches_tracked
            )
        group = self.statistics_group()
        return batch_norm(x, self.weight, self.bias, running, self.eps, mapper, group)

    def statistics_group(self) -> dist.ProcessGroup | None:
        """The processes that share a batch's statistics, None for this one alone."""
        return None


class IntBatchNorm1d(IntBatchNorm, nn.BatchNorm1d, _BatchNorm):
    """`torch.nn.BatchNorm1d` in integer arithmetic, as `IntBatchNorm`: (N, C) or (N, C, L)."""

    dims = (2, 3)


class IntBatchNorm2d(IntBatchNorm, nn.BatchNorm2d, _BatchNorm):
    """`torch.nn.BatchNorm2d` in integer arithmetic, as `IntBatchNorm`: (N, C, H, W)."""

    dims = (4,)


class IntBatchNorm3d(IntBatchNorm, nn.BatchNorm3d, _BatchNorm):
    """`torch.nn.BatchNorm3d` in integer arithmetic, as `IntBatchNorm`: (N, C, D, H, W)."""

    dims = (5,)


class IntSyncBatchNorm(IntBatchNorm, nn.SyncBatchNorm, _BatchNorm):
    """`torch.nn.SyncBatchNorm` in integer arithmetic, as `IntBatchNorm`, on any device.

    Processes map at the same exponents and add integers, so that their statistics are, to the bit,
    those that one process would find in the same mantissas.
    """

    def statistics_group(self) -> dist.ProcessGroup | None:
        """See `IntBatchNorm`; None in evaluation, or for a single process."""
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return None
        group = self.process_group or dist.group.WORLD
        return group if dist.get_world_size(group) > 1 else None


class IntFrozenBatchNorm2d(IntNorm):
    """Batch norm of float32 (N, C, H, W) whose parameters and statistics are all buffers.

    It is what `mmint.convert` makes of the ``FrozenBatchNorm2d`` of torchvision and mmdet, whose
    buffers it uses; it is not built by itself.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    @classmethod
    def check(cls, module: nn.Module) -> None:
        """See `IntLayer.check`; it is the variances that have to be positive, not ``eps`` alone."""

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """See `torchvision.ops.FrozenBatchNorm2d`."""
        self.check_input(x, (4,), 1, len(self.weight))
        statistics = self.running_mean, self.running_var
        return frozen_norm(x, *statistics, self.weight, self.bias, self.eps, self.mapper())


class IntInstanceNorm(IntNorm, _InstanceNorm):
    """Instance norm in integer arithmetic, of float32 (N, C, ...) or (C, ...).

    Takes the arguments of `torch.nn.InstanceNorm2d`, ``bits`` and ``exponents`` (`IntLayer`). It is
    group norm with one channel a group; where running statistics are tracked, they move towards the
    means of the images' in training, and serve in evaluation.
    """

    running_mean: Any  # a tensor, or None as the other where nothing is tracked
    running_var: Any

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.InstanceNorm2d`."""
        dims = self._get_no_batch_dim()
        # As in PyTorch, layers without parameters take any number of channels.
        fixed = self.affine or self.track_running_stats or x.dim() < dims
        self.check_input(x, (dims, dims + 1), -dims, self.num_features if fixed else x.shape[-dims])
        if x.dim() == dims:
            return self.forward(x[None])[0]
        mapper = self.mapper()
        statistics = self.running_mean, self.running_var
        if not self.training and self.track_running_stats:
            return frozen_norm(x, *statistics, self.weight, self.bias, self.eps, mapper)
        running = None
        if self.track_running_stats and self.momentum:
            running = Running(*statistics, self.momentum)
        return instance_norm(x, self.weight, self.bias, running, self.eps, mapper)


class IntInstanceNorm1d(IntInstanceNorm, nn.InstanceNorm1d, _InstanceNorm):
    """`torch.nn.InstanceNorm1d` in integer arithmetic, as `IntInstanceNorm`: (N, C, L)."""


class IntInstanceNorm2d(IntInstanceNorm, nn.InstanceNorm2d, _InstanceNorm):
    """`torch.nn.InstanceNorm2d` in integer arithmetic, as `IntInstanceNorm`: (N, C, H, W)."""


class IntInstanceNorm3d(IntInstanceNorm, nn.InstanceNorm3d, _InstanceNorm):
    """`torch.nn.InstanceNorm3d` in integer arithmetic, as `IntInstanceNorm`: (N, C, D, H, W)."""


class IntGroupNorm(IntNorm, nn.GroupNorm):
    """`torch.nn.GroupNorm` in integer arithmetic, of float32 (N, C, ...).

    Takes the arguments of `torch.nn.GroupNorm`, ``bits`` and ``exponents`` (`IntLayer`).
    """

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.GroupNorm`."""
        self.check_input(x, (), 1, self.num_channels)
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps, self.mapper())


class IntLayerNorm(IntNorm, nn.LayerNorm):
    """`torch.nn.LayerNorm` in integer arithmetic, of float32 ``(..., *normalized_shape)``.

    Takes the arguments of `torch.nn.LayerNorm`, ``bits`` and ``exponents`` (`IntLayer`).
    """

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.LayerNorm`."""
        for i in range(1, len(self.normalized_shape) + 1):
            self.check_input(x, (), -i, self.normalized_shape[-i])
        weight, bias = (None if p is None else p.flatten() for p in (self.weight, self.bias))
        size = math.prod(self.normalized_shape)
        return layer_norm(x, size, weight, bias, self.eps, self.mapper())


class IntLayerNorm2d(IntLayerNorm):
    """Layer norm over the channels of float32 (N, C, H, W), or (N, H, W, C) where asked for."""

    @opaque
    def forward(self, x: Tensor, data_format: str = 'channel_first') -> Tensor:
        """See `mmpretrain.models.utils.LayerNorm2d`."""
        if data_format == 'channel_last':
            return super().forward(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
