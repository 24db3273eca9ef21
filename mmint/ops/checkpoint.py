"""Activation checkpointing: a recomputed layer draws the random bits of the first pass.

`torch.utils.checkpoint.checkpoint` runs a function again during the backward pass. The calls of an
integer layer are numbered within an iteration, so the second run has to count from where the first
one did. PyTorch offers no hook for this in the re-entrant variant, which the OpenMMLab backbones
use; hence the function is wrapped, once, where they look it up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch.utils.checkpoint

from .run import current_run
from .scope import current_place, entered


def make_checkpoint_replay() -> None:
    """Wraps `torch.utils.checkpoint.checkpoint` so that it replays the numbering of calls."""
    original = torch.utils.checkpoint.checkpoint
    if getattr(original, 'replays_calls', False):
        return

    @functools.wraps(original)
    def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():  # then there is no second run
            return original(function, *args, **kwargs)
        moment, calls, place = current_run.moment(), current_run.calls.copy(), current_place()
        runs = 0

        def replayed(*inner: Any, **named: Any) -> Any:
            nonlocal runs
            runs += 1
            if runs == 1:
                with current_run.to_be_replayed():
                    return function(*inner, **named)
            with current_run.replay(moment, calls), entered(place):
                return function(*inner, **named)

        return original(replayed, *args, **kwargs)

    checkpoint.replays_calls = True  # type: ignore[attr-defined]  # our mark
    torch.utils.checkpoint.checkpoint = checkpoint  # type: ignore[assignment]  # it has overloads
