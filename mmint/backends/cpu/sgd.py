"""Stochastic gradient descent: arguments of the kernel in sgd.c."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch

from ...numerics import FixedPoint, Role
from ..errors import NonFiniteError, naming
from ..host.updates import Memory, factor
from ..update import Update
from .library import ready


def sgd_step(updates: Sequence[Update]) -> list[FixedPoint | None]:
    """As `Backend.sgd_step`."""
    memory = [Memory.of(update) for update in updates]
    rows = array('q')
    for update, held in zip(updates, memory, strict=True):
        rows.extend(_row(update, held))
    failed = ready().sgd_step(
        updates=torch.frombuffer(rows, dtype=torch.int64) if rows else None,
        count=len(memory), threads=torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        with naming(updates[failed - 1].not_finite):
            raise NonFiniteError
    for update, held in zip(updates, memory, strict=True):
        held.write_back(update)
    return [held.momentum for held in memory]


def _row(update: Update, held: Memory) -> tuple[int, ...]:
    """The struct ``update_t`` of elements/sgd.h."""
    momentum, exponent = 0, 0
    if held.momentum is not None and held.mantissa is not None:
        momentum, exponent = held.mantissa.data_ptr(), held.momentum.exponent.data_ptr()
    return (
        held.param.data_ptr(), held.grad.data_ptr(), momentum, exponent, held.is_first,
        held.param.numel(), update.bits, update.nesterov, *factor(update.momentum),
        *factor(update.weight_decay), *factor(-update.lr),
        *update.random._replace(role=Role(0)).words(),
    )  # fmt: skip
