"""Stochastic gradient descent: grids and arguments of the kernels in sgd.cu."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...numerics import FixedPoint, Role
from ..errors import naming
from ..host.updates import Memory, factor
from ..replays import Rate
from ..update import Update
from . import finite
from .launch import SERVED, THREADS, words
from .launcher import Argument, launcher

UPDATES = 16  # in the arguments of a kernel
UPDATE_WORDS = 25
FOUND_WORDS = 4  # of 32 bits
KERNELS = ('sgd_largest', 'sgd_step')


def sgd_step(updates: Sequence[Update]) -> list[FixedPoint | None]:
    """As `Backend.sgd_step`."""
    memory = [Memory.of(update) for update in updates]
    if not updates:
        return []
    found = torch.zeros(
        (len(updates), FOUND_WORDS), dtype=torch.int32, device=updates[0].param.device
    )
    for first in range(0, len(updates), UPDATES):
        part = slice(first, first + UPDATES)
        _launch(updates[part], memory[part], found[part])
    for update, held in zip(updates, memory, strict=True):
        held.write_back(update)
    return [held.momentum for held in memory]


def _launch(updates: Sequence[Update], memory: Sequence[Memory], found: Tensor) -> None:
    device, blocks = found.device, 0
    rows: list[Argument] = []
    for update, held, there in zip(updates, memory, found, strict=True):
        rows.append(_row(update, held, there, blocks))
        blocks += max(1, -(-held.param.numel() // (SERVED * THREADS)))
    rows += [(0,) * UPDATE_WORDS] * (UPDATES - len(rows))
    arguments = [(len(updates), finite.flag(device), *rows)]
    for name in KERNELS:
        kernel = launcher().kernel('sgd.cu', name, device)
        launcher().launch(kernel, (blocks, 1, 1), (THREADS, 1, 1), 0, arguments, device)


def _row(update: Update, held: Memory, found: Tensor, first_block: int) -> Argument:
    """The struct ``update`` of sgd.cu."""
    device, rate = held.param.device, update.lr
    with naming(update.not_finite):
        number = finite.number(device)
    return (
        held.param, held.grad, held.mantissa, held.momentum and held.momentum.exponent,
        int(held.is_first), held.param.numel(), first_block, update.bits, int(update.nesterov),
        factor(update.momentum), factor(update.weight_decay), factor(-rate),
        words(update.random._replace(role=Role(0)), device),
        rate.words if isinstance(rate, Rate) else None, found, number,
    )  # fmt: skip
