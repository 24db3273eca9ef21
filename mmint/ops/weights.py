"""Weights in fixed point: mapped twice, each time with exponents where the product does not sum.

The forward pass never sums over output channels, the input gradient never over input channels. So a
dense weight is mapped with an exponent for each output channel, and with random bits of its own
with one for each input channel. A weight of several groups has one for each, the same both times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..backends import Mapping, backend_for
from ..numerics import FREE, FixedPoint, Role
from .mapper import Mapper, along_axis
from .run import current_run


class Weights(NamedTuple):
    """A weight for the forward pass, and for the input gradient: mapped, or how to map it.

    It is mapped wherever it is used, always to the same bits, and takes no memory in between. Where
    a backend maps many tensors as fast as one, all are mapped at once, and kept.
    """

    forward: FixedPoint | Mapping
    gradient: FixedPoint | Mapping


def map_weight(weight: Tensor, mapper: Mapper, output_axis: int = 0, groups: int = 1) -> Weights:
    """A float32 weight of two dimensions or more, for the products of a call.

    Args:
        output_axis: 0 or 1: that of output channels; the other one is that of input channels.
        groups: in which the channels of axis 0 are.
    """
    return map_weights([mappings_of(weight, mapper, output_axis, groups)])[0]


def map_weights(weights: Sequence[Sequence[Mapping]]) -> list[Weights]:
    """The same of weights on one device, each as `mappings_of` says."""
    mappings = [mapping for weight in weights for mapping in weight]
    quantize_all = backend_for(mappings[0].x.device).quantize_all
    if quantize_all is None or not all(m.x.numel() for m in mappings):
        return [Weights(weight[0], weight[-1]) for weight in weights]
    made = iter(quantize_all(mappings))
    each = [[next(made) for _ in weight] for weight in weights]
    return [Weights(fixed[0], fixed[-1]) for fixed in each]


def mappings_of(weight: Tensor, mapper: Mapper, output_axis: int, groups: int) -> list[Mapping]:
    """That for the forward pass, and where there is another one, that for the input gradient."""
    if groups > 1 or mapper.exponents != FREE:
        return [mapper.mapping(weight, Role.WEIGHT, along_axis(weight, 0, groups))]

    def along(axis: int, role: Role) -> Mapping:
        exponents = along_axis(weight, axis, weight.shape[axis])
        return mapper.mapping(weight, role, exponents, turned=weight.dim() == 4 and axis == 1)

    forward = along(output_axis, Role.WEIGHT)
    if not current_run.gradients_enabled():
        return [forward]
    return [forward, along(1 - output_axis, Role.WEIGHT_OF_GRADIENT)]
