"""Stochastic gradient descent: grids and arguments of the kernels in sgd.cu."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits, Role
from ..errors import naming
from ..host.updates import Memory, factor
from ..replays import Rate
from ..update import Update
from . import finite
from .launch import SERVED, THREADS, words
from .launcher import Argument, launcher
from .zeroed import zeros

SETTINGS, SETTING_WORDS = 8, 10  # in the arguments of a kernel, 4096 bytes
UPDATES, UPDATE_WORDS = 52, 8
FOUND_WORDS = 4  # of 32 bits
KERNELS = ('sgd_largest', 'sgd_step')


def sgd_step(updates: Sequence[Update]) -> list[FixedPoint | None]:
    """As `Backend.sgd_step`."""
    memory = [Memory.of(update) for update in updates]
    for batch in _batches(updates, memory):
        batch.launch()
    for update, held in zip(updates, memory, strict=True):
        held.write_back(update)
    return [held.momentum for held in memory]


class Setting(NamedTuple):
    """The struct ``setting`` of sgd.cu."""

    is_first: int
    bits: int
    nesterov: int
    factors: tuple[tuple[int, int], ...]
    rate: Tensor | None  # of a captured step

    @classmethod
    def of(cls, update: Update, held: Memory) -> Setting:
        """That of an update."""
        rate = update.lr
        factors = factor(update.momentum), factor(update.weight_decay), factor(-rate)
        captured = rate.words if isinstance(rate, Rate) else None
        return cls(int(held.is_first), update.bits, int(update.nesterov), factors, captured)

    def key(self) -> tuple[object, ...]:
        """What tells it from others."""
        return *self[:-1], None if self.rate is None else self.rate.data_ptr()


class _Batch:
    """Updates of one pair of launches, with few different settings, and one name of random bits.

    Attributes:
        random: the name, but for the layer, which is an update's own.
    """

    def __init__(self, random: RandomBits) -> None:
        self.random = random
        self.settings: dict[tuple[object, ...], Setting] = {}
        self.rows: list[Argument] = []
        self.blocks = 0

    def takes(self, random: RandomBits, setting: Setting) -> bool:
        """Whether there is room for an update."""
        fits = setting.key() in self.settings or len(self.settings) < SETTINGS
        return fits and len(self.rows) < UPDATES and random == self.random

    def add(self, update: Update, held: Memory, setting: Setting) -> None:
        """Adds the struct ``update`` of sgd.cu."""
        self.device = held.param.device
        self.settings.setdefault(setting.key(), setting)
        place = list(self.settings).index(setting.key())
        with naming(update.not_finite):
            call = finite.number(self.device)
        self.rows.append((
            held.param, held.grad, held.mantissa, held.momentum and held.momentum.exponent,
            held.param.numel(), self.blocks, call, update.random.layer << 32 | place,
        ))  # fmt: skip
        self.blocks += max(1, -(-held.param.numel() // (SERVED * THREADS)))

    def launch(self) -> None:
        """Launches both kernels with the struct ``updates``."""
        device, count = self.device, len(self.rows)
        found = zeros((count, FOUND_WORDS), torch.int32, device)
        no_settings = bytes(8 * SETTING_WORDS * (SETTINGS - len(self.settings)))
        no_updates = bytes(8 * UPDATE_WORDS * (UPDATES - count))
        arguments: list[Argument] = [(
            count, finite.flag(device), found, words(self.random, device),
            *self.settings.values(), no_settings, *self.rows, no_updates,
        )]  # fmt: skip
        for name in KERNELS:
            kernel = launcher().kernel('sgd.cu', name, device)
            launcher().launch(kernel, (self.blocks, 1, 1), (THREADS, 1, 1), 0, arguments, device)


def _batches(updates: Sequence[Update], memory: Sequence[Memory]) -> Iterator[_Batch]:
    batch = None
    for update, held in zip(updates, memory, strict=True):
        random, setting = update.random._replace(layer=0, role=Role(0)), Setting.of(update, held)
        if batch is None or not batch.takes(random, setting):
            if batch is not None:
                yield batch
            batch = _Batch(random)
        batch.add(update, held, setting)
    if batch is not None:
        yield batch
