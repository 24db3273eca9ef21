"""The running statistics of batch norm."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Running(NamedTuple):
    """What a batch norm in training updates in place.

    Attributes:
        mean, var: float32 (C,).
        momentum: how far they move towards the batch's.
        batches: int64 of one element, which counts the batches; None where nobody counts.
    """

    mean: Tensor
    var: Tensor
    momentum: float
    batches: Tensor | None = None
