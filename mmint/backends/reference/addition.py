"""Addition of two tensors in integers: residual connections, and gradients that meet.

Each operand is mapped to mantissas with exponents of its own; the mantissas are aligned by shifts
and added, and the exact sum goes back to float32. The operands of an element share its 16 random
bits r: the first is rounded with r, the second with 65535 - r. Each is unbiased, as it would be
alone, and their errors partly cancel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits
from ...numerics.float32 import split_sign
from ..host.checks import check_operands
from ..source import Unwritten
from .mapping import dequantize, exponent_of, largest_of, mantissa_at
from .source import written

# An operand whose exponent is lower than the other's by more than this is below 2**-25 of a unit.
MAX_ALIGNMENT = 40


def add(
    x: Tensor | Unwritten,
    y: Tensor | Unwritten,
    bits: int,
    random: RandomBits | None,
    exponents: tuple[int, ...] = (),
    inplace: bool = False,
) -> Tensor:
    """As `Backend.add`.

    The sum of mantissas is below 2**57, so exact. Where exponents differ by more than
    `MAX_ALIGNMENT` (as those of scores and of a mask of huge numbers do), an element is that of the
    higher one, or, where that is 0, of the lower one.
    """
    check_operands(x, y)
    x, y = written(x), written(y)
    draws: tuple[Tensor | None, Tensor | None] = (None, None)
    if random is not None:
        bits16 = random.draw(x.numel(), x.device).view(x.shape)
        draws = bits16, 65535 - bits16
    terms = []
    for operand, drawn in zip((x, y), draws, strict=True):
        exponent = exponent_of(largest_of(split_sign(operand)[1], exponents), bits)
        place = FixedPoint(operand, exponent, bits).exponents().expand(x.shape)
        terms.append((mantissa_at(operand, place, drawn), place))
    (first, at_first), (second, at_second) = terms
    swapped = at_second > at_first
    high, at_high = torch.where(swapped, second, first), torch.maximum(at_first, at_second)
    low, at_low = torch.where(swapped, first, second), torch.minimum(at_first, at_second)
    alignment = at_high - at_low
    apart = alignment > MAX_ALIGNMENT
    total = low + (high << alignment.masked_fill(apart, 0))
    out = dequantize(
        torch.where(apart, torch.where(high != 0, high, low), total),
        torch.where(apart & (high != 0), at_high, at_low),
    )
    return x.copy_(out) if inplace else out
