"""Fixed-point tensors that wait for a backward pass: their mantissas, a quarter of float32.

A parameter that the backward pass maps with bits of its own waits as it is, which takes no memory.
"""

from __future__ import annotations

from typing import Any

import torch

from ..backends import Mapping, backend_for
from ..backends.errors import naming
from ..numerics import FixedPoint

NOTHING = torch.empty(0)  # in the place of what autograd saves


def save(ctx: Any, *tensors: FixedPoint | Mapping) -> None:
    """Saves fixed-point tensors, or what is to be mapped, for the backward pass."""
    parts = [t[:1] if isinstance(t, Mapping) else t[:2] for t in tensors]
    ctx.save_for_backward(*[part for both in parts for part in both])
    ctx.rest = [t._replace(x=NOTHING) if isinstance(t, Mapping) else t.bits for t in tensors]


def restore(ctx: Any) -> list[Any]:
    """What `save` saved."""
    saved = iter(ctx.saved_tensors)
    return [
        rest._replace(x=next(saved))
        if isinstance(rest, Mapping)
        else FixedPoint(next(saved), next(saved), rest)
        for rest in ctx.rest
    ]


def mapped(x: FixedPoint | Mapping) -> FixedPoint:
    """``x`` in fixed point."""
    if isinstance(x, FixedPoint):
        return x
    with naming(x.not_finite):
        return backend_for(x.x.device).quantize(x.x, x.bits, x.random, None, x.exponents)
