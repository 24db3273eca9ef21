"""Weights mapped ahead: all that the iteration before mapped, by few launches on a GPU.

A layer maps its weight when it is first called in an iteration; one by one that is two to four
launches a layer. Where a backend maps many tensors as fast as one, the first layer that asks has
the weights of all mapped that asked in the iteration before. What they get is what they would map
themselves: random bits are named by layer and call, and a layer takes what was mapped ahead only
if nothing has changed that its own mapping would depend on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..backends import backend_for
from ..numerics import Role
from ..ops.run import current_run
from ..ops.weights import Weights, map_weights, mappings_of

State = tuple[Any, ...]


@dataclass
class _Asked:
    """By a layer, for its weight.

    Attributes:
        begun: the iteration, by `Run.begun`.
        arguments: of `mappings_of`.
        made: what is mapped ahead for it, and for which state and call.
    """

    begun: int
    arguments: tuple[int, int]
    made: tuple[State, int, Weights] | None = None


_layers: WeakKeyDictionary[Any, _Asked] = WeakKeyDictionary()
_begun = -1


def next_weights(
    layer: Any, weight: Tensor, state: State, output_axis: int, groups: int
) -> Weights:
    """The weight of an `IntLayer` in such a state, mapped for its next call."""
    global _begun
    if _begun != current_run.begun:
        _map_ahead(weight.device, _begun)
        _begun = current_run.begun
    call = current_run.next_call(layer.site.number, Role.WEIGHT)
    asked = _layers.get(layer)
    _layers[layer] = _Asked(_begun, (output_axis, groups))
    if asked is not None and asked.made is not None and asked.made[:2] == (state, call):
        return asked.made[2]
    mappings = mappings_of(weight, layer.weight_mapper(call), output_axis, groups)
    return map_weights([mappings])[0]


def _map_ahead(device: torch.device, before: int) -> None:
    """Maps the weights on ``device`` that were asked for in iteration ``before``."""
    if backend_for(device).quantize_all is None:
        return
    found, mappings = [], []
    for layer, asked in _layers.items():
        asked.made, weight = None, layer._parameters.get('weight')  # none that is computed anew
        if asked.begun == before and layer.training and weight is not None:
            if weight.device == device and weight.numel():
                call = current_run.calls[layer.site.number, Role.WEIGHT]
                found.append((asked, layer.weight_state(weight), call))
                mappings.append(mappings_of(weight, layer.weight_mapper(call), *asked.arguments))
    if found:
        for (asked, state, call), made in zip(found, map_weights(mappings), strict=True):
            asked.made = state, call, made
