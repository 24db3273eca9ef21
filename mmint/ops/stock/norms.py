"""Norms that are called as functions, as subclasses of PyTorch's layers do.

What their integer versions do not know stays in float: an ``eps`` that is not positive, groups of a
single value, parameters of other shapes or types.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F

from ...backends import Running
from ..norm import batch_norm, frozen_norm, group_norm, instance_norm, layer_norm
from ..operands import is_empty, is_float
from ..registry import Scope, integer


@integer(F.layer_norm)
def _layer_norm(
    scope: Scope,
    input: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Any:
    shape = tuple(normalized_shape)
    if not _is_normalised(input, shape, eps, weight, bias):
        return NotImplemented
    if not shape or input.dim() < len(shape) or tuple(input.shape[-len(shape) :]) != shape:
        return NotImplemented
    weight, bias = (None if p is None else p.flatten() for p in (weight, bias))
    return layer_norm(input, math.prod(shape), weight, bias, eps, scope.mapper())


@integer(F.batch_norm)
def _batch_norm(
    scope: Scope,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not _has_channels(input, eps, weight, bias, running_mean, running_var):
        return NotImplemented
    if not training:
        if running_mean is None or running_var is None:
            return NotImplemented
        return frozen_norm(input, running_mean, running_var, weight, bias, eps, scope.mapper())
    if input[:, 0].numel() < 2:
        return NotImplemented
    running = _running(running_mean, running_var, momentum)
    return batch_norm(input, weight, bias, running, eps, scope.mapper())


@integer(F.group_norm)
def _group_norm(
    scope: Scope,
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Any:
    if not _has_channels(input, eps, weight, bias):
        return NotImplemented
    if input.shape[1] % num_groups or input[0].numel() <= num_groups:
        return NotImplemented
    return group_norm(input, num_groups, weight, bias, eps, scope.mapper())


@integer(F.instance_norm)
def _instance_norm(
    scope: Scope,
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats:
        return _batch_norm(scope, input, running_mean, running_var, weight, bias, eps=eps)
    if not _has_channels(input, eps, weight, bias, running_mean, running_var):
        return NotImplemented
    if input[0, 0].numel() < 2:
        return NotImplemented
    running = _running(running_mean, running_var, momentum)
    return instance_norm(input, weight, bias, running, eps, scope.mapper())


def _running(mean: Any, var: Any, momentum: float) -> Running | None:
    return None if mean is None or var is None or not momentum else Running(mean, var, momentum)


def _has_channels(input: Any, eps: float, *parameters: Any) -> bool:
    """Whether ``input`` is float32 (N, C, ...), and what is given of the others (C,)."""
    if not is_float(input) or input.dim() < 2:
        return False
    return _is_normalised(input, (input.shape[1],), eps, *parameters)


def _is_normalised(input: Any, shape: tuple[int, ...], eps: float, *parameters: Any) -> bool:
    given = [p for p in parameters if p is not None]
    if not is_float(input, *given) or is_empty(input) or not eps > 0:
        return False
    return all(tuple(p.shape) == shape for p in given)
