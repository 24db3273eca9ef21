"""Where in a training run we are: the part of a random bit's name that changes as it goes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from .random_bits import RandomBits, Role


@dataclass
class Run:
    """Seed, rank and iteration of this process, and how often each layer was called in it.

    `IntTrainingHook` sets these. A training loop without it may leave the iteration at 0: the
    calls are then counted over the whole run, so that no bits are drawn twice, and weights are
    mapped at every call, since nobody says when a step begins.
    """

    seed: int = 0
    rank: int = 0
    iteration: int = 0
    calls: Counter[tuple[int, Role]] = field(default_factory=Counter)
    has_iterations: bool = False
    _replaying: bool = False
    _to_be_replayed: bool = False

    def begin_iteration(self, iteration: int) -> None:
        """Starts an iteration: every layer's calls are counted from 0 again."""
        self.iteration = iteration
        self.has_iterations = True
        self.calls.clear()

    def next_call(self, layer: int, role: Role) -> int:
        """The number of this call of ``layer`` within the iteration."""
        if _in_backward() and not self._replaying:
            raise RuntimeError(
                'an integer layer was recomputed during the backward pass by something other than '
                '`torch.utils.checkpoint.checkpoint`, which would draw new random bits: use that '
                'function, looked up as an attribute of its module, or leave checkpointing out'
            )
        call = self.calls[layer, role]
        self.calls[layer, role] += 1
        return call

    def gradients_enabled(self) -> bool:
        """Whether a backward pass will follow, which a checkpointed function may not yet show."""
        return self._to_be_replayed or torch.is_grad_enabled()

    @contextmanager
    def to_be_replayed(self) -> Iterator[None]:
        """Within this context a function runs that will run again, in `replay`, for gradients."""
        before, self._to_be_replayed = self._to_be_replayed, True
        try:
            yield
        finally:
            self._to_be_replayed = before

    @contextmanager
    def replay(self, calls: Counter[tuple[int, Role]]) -> Iterator[None]:
        """Within this context calls are counted on from ``calls``, and forgotten afterwards."""
        outer, was_replaying = self.calls, self._replaying
        self.calls, self._replaying = calls.copy(), True
        try:
            yield
        finally:
            self.calls, self._replaying = outer, was_replaying


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


current_run = Run()
_site_numbers = itertools.count()


@dataclass
class Site:
    """The place in a model that random bits and error messages name: a layer, or a parameter."""

    name: str
    number: int = field(default_factory=lambda: next(_site_numbers))

    def random_bits(self, role: Role, call: int) -> RandomBits:
        """The bits of this site's tensor ``role`` in the present iteration."""
        run = current_run
        return RandomBits(run.seed, run.rank, self.number, run.iteration, role, call)
