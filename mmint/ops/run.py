"""Where in a training run we are: the part of a random bit's name that changes as it goes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from weakref import WeakSet

import torch
import torch.distributed as dist

from ..backends import replays
from ..numerics import RandomBits, Role

Calls = Counter[tuple[int, Role]]


class Moment(NamedTuple):
    """A place in a training run. A backward pass belongs to the moment of its forward pass."""

    seed: int
    rank: int
    iteration: int


class Captured(Protocol):
    """An optimizer whose step is in a CUDA graph."""

    def check(self) -> None:
        """Raises what the replay before met."""

    def begin_replay(self, iteration: int) -> None:
        """Makes the next replay its step of ``iteration``."""


@dataclass
class Run:
    """Seed, rank and iteration of this process, and how often each layer was called in it.

    `begin_iteration` sets these. A training loop without it may leave the iteration at 0: the calls
    are then counted over the whole run, so that no bits are drawn twice, and weights are mapped at
    every call, since nobody says when a step begins.

    Attributes:
        optimizers: how many optimizers were made since the run began.
        begun: how many iterations were begun, in captures and before replays too.
        captured: the optimizers whose steps are in CUDA graphs.
    """

    seed: int = 0
    rank: int = 0
    iteration: int = 0
    calls: Calls = field(default_factory=Counter)
    has_iterations: bool = False
    optimizers: int = 0
    begun: int = 0
    captured: WeakSet[Captured] = field(default_factory=WeakSet)
    _replaying: bool = False
    _to_be_replayed: bool = False

    def moment(self) -> Moment:
        """Where the run is now."""
        return Moment(self.seed, self.rank, self.iteration)

    def begin_iteration(self, iteration: int) -> None:
        """Starts an iteration: every layer's calls are counted from 0 again.

        With iteration 0 a run begins, and so does the numbering of its optimizers.
        """
        replays.begin(iteration)
        self.iteration = iteration
        self.begun += 1
        self.has_iterations = True
        self.calls.clear()
        if iteration == 0:
            self.optimizers = 0

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

    def next_optimizer(self) -> int:
        """The number of an optimizer that is being made."""
        number = self.optimizers
        self.optimizers += 1
        return number

    def gradients_enabled(self) -> bool:
        """Whether a backward pass will follow, which a checkpointed function may not yet show."""
        return self._to_be_replayed or torch.is_grad_enabled()

    def runs_twice(self) -> bool:
        """Whether this is a run of a checkpointed function, the first or the second."""
        return self._to_be_replayed or self._replaying

    @contextmanager
    def to_be_replayed(self) -> Iterator[None]:
        """Within this context a function runs that will run again, in `replay`, for gradients."""
        before, self._to_be_replayed = self._to_be_replayed, True
        try:
            yield
        finally:
            self._to_be_replayed = before

    @contextmanager
    def replay(self, moment: Moment, calls: Calls) -> Iterator[None]:
        """Within this context it is ``moment`` again, and calls are counted on from ``calls``."""
        outer = self.moment(), self.calls, self._replaying
        (self.seed, self.rank, self.iteration), self.calls = moment, calls.copy()
        self._replaying = True
        try:
            yield
        finally:
            (self.seed, self.rank, self.iteration), self.calls, self._replaying = outer


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


current_run = Run()


def begin_iteration(iteration: int, seed: int = 0, rank: int | None = None) -> None:
    """Begins an iteration of a training loop of one's own: call it before each forward pass.

    Random bits are a function of the three numbers, so that a run can be repeated and resumed, and
    error messages name the iteration. Weights then have the same bits all through an iteration.

    Args:
        iteration: the number of this training step, from 0 on.
        seed: of the run.
        rank: of this process among those of the run, the one in `torch.distributed` unless given.
    """
    if rank is None:
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    current_run.seed, current_run.rank = seed, rank
    current_run.begin_iteration(iteration)


def begin_replay(iteration: int) -> None:
    """Begins an iteration that replays a CUDA graph: call it before each ``graph.replay()``.

    The training step in the graph, which called `begin_iteration` when it was captured, then draws
    the random bits of ``iteration``, and its optimizers use their learning rates of now. Seed and
    rank are those of the capture.

    Args:
        iteration: the number of this training step.

    Raises:
        RuntimeError: if a capture is going on, or an optimizer has other settings than when it was
            captured, learning rates aside.
        NonFiniteError: if a tensor of the replay before was infinite or not a number.
    """
    if replays.capturing():
        raise RuntimeError(
            'mmint.begin_replay was called while a CUDA graph is being captured, before a replay '
            'is accepted: call mmint.begin_iteration in the capture'
        )
    optimizers = list(current_run.captured)
    for optimizer in optimizers:
        optimizer.check()
    current_run.begin_iteration(iteration)
    replays.write_iteration(iteration)
    for optimizer in optimizers:
        optimizer.begin_replay(iteration)


_site_numbers = itertools.count()


@dataclass
class Site:
    """The place in a model that random bits and error messages name: a layer, or a parameter."""

    name: str
    number: int = field(default_factory=lambda: next(_site_numbers))

    def random_bits(self, role: Role, call: int, moment: Moment) -> RandomBits:
        """The bits of this site's tensor ``role`` at a moment of the run."""
        return RandomBits(moment.seed, moment.rank, self.number, moment.iteration, role, call)
