"""Fixed-point tensors that wait for a backward pass: their mantissas, a quarter of float32."""

from __future__ import annotations

from typing import Any

from ..numerics import FixedPoint


def save(ctx: Any, *tensors: FixedPoint) -> None:
    """Saves fixed-point tensors for the backward pass."""
    ctx.save_for_backward(*[t for fixed in tensors for t in (fixed.mantissa, fixed.exponent)])
    ctx.bits = [fixed.bits for fixed in tensors]


def restore(ctx: Any) -> list[FixedPoint]:
    """The tensors that `save` saved."""
    tensors = ctx.saved_tensors
    return [FixedPoint(tensors[2 * i], tensors[2 * i + 1], b) for i, b in enumerate(ctx.bits)]
