"""Weights in fixed point: mapped twice, each time with exponents where the product does not sum.

The forward pass never sums over output channels, the input gradient never over input channels. So a
dense weight is mapped with an exponent for each output channel, and with random bits of its own
with one for each input channel. A weight of several groups is mapped once, with one for each.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..numerics import FREE, FixedPoint, Role
from .mapper import Mapper, along_axis
from .run import current_run


class Weights(NamedTuple):
    """A weight for the forward pass, and for the input gradient."""

    forward: FixedPoint
    gradient: FixedPoint


def map_weight(weight: Tensor, mapper: Mapper, output_axis: int = 0, groups: int = 1) -> Weights:
    """Maps a float32 weight of two dimensions or more.

    Args:
        output_axis: 0 or 1: that of output channels; the other one is that of input channels.
        groups: in which the channels of axis 0 are.
    """
    if groups > 1 or mapper.exponents != FREE:
        mapped = mapper(weight, Role.WEIGHT, along_axis(weight, 0, groups))
        return Weights(mapped, mapped)
    forward = mapper(
        weight, Role.WEIGHT, along_axis(weight, output_axis, weight.shape[output_axis])
    )
    if not current_run.gradients_enabled():
        return Weights(forward, forward)
    axis = 1 - output_axis
    exponents = along_axis(weight, axis, weight.shape[axis])
    return Weights(forward, mapper(weight, Role.WEIGHT_OF_GRADIENT, exponents))
