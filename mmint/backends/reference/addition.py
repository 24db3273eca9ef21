"""Addition of two tensors in integers: residual connections, and gradients that meet.

Each operand is mapped to mantissas with an exponent of its own; the mantissas are aligned by shifts
and added, and the exact sum goes back to float32. The operands of an element share its 16 random
bits r: the first is rounded with r, the second with 65535 - r. Each is unbiased, as it would be
alone, and their errors partly cancel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import RandomBits
from ...numerics.float32 import split_sign
from ..host.checks import check_operands
from ..source import Source
from .mapping import dequantize, mantissa_at, shared_exponent
from .source import written

# An operand whose exponent is lower than the other's by more than this is below 2**-25 of a unit.
MAX_ALIGNMENT = 40


def add(
    x: Tensor | Source,
    y: Tensor | Source,
    bits: int,
    random: RandomBits | None,
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
        exponent = shared_exponent(split_sign(operand)[1], bits)
        mantissa = mantissa_at(operand, exponent, drawn)
        if mantissa.any():
            terms.append((mantissa, exponent))
    terms.sort(key=lambda term: -term[1])
    if len(terms) == 2:
        (high, high_exponent), (low, exponent) = terms
        alignment = high_exponent - exponent
        if alignment > MAX_ALIGNMENT:
            apart = dequantize(high, high_exponent), dequantize(low, exponent)
            out = torch.where(high != 0, *apart)
        else:
            out = dequantize((high << alignment) + low, exponent)
    else:
        out = dequantize(*terms[0]) if terms else torch.zeros_like(x)
    return x.copy_(out) if inplace else out
