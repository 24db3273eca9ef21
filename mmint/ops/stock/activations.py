"""Activations of deferred tensors, which wait with them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..deferred import is_source
from ..registry import Scope, integer
from ..relu import relu


@integer(F.relu)
def _relu(scope: Scope, input: Any, inplace: bool = False) -> Any:
    return relu(input, inplace) if _waits(input) else NotImplemented


@integer(torch.relu, Tensor.relu)
def _plain_relu(scope: Scope, input: Any) -> Any:
    return _relu(scope, input)


@integer(torch.relu_, Tensor.relu_)
def _relu_(scope: Scope, input: Any) -> Any:
    return _relu(scope, input, inplace=True)


@integer(F.relu6)
def _relu6(scope: Scope, input: Any, inplace: bool = False) -> Any:
    return relu(input, inplace, 6.0) if _waits(input) else NotImplemented


def _waits(x: Any) -> bool:
    """Whether ReLU of ``x`` waits with it: not where checkpointing compares what two runs save."""
    return is_source(x) and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
