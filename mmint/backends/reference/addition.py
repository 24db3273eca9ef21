"""Addition of two tensors in integers: residual connections, and gradients that meet.

Each operand is mapped to mantissas with an exponent of its own; the mantissas are aligned by shifts
and added, and the exact sum goes back to float32. The operands of an element share its 16 random
bits r: the first is rounded with r, the second with 65535 - r. Each is unbiased, as it would be
alone, and where both have the same sign their errors partly cancel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import RandomBits
from .mapping import dequantize, mantissa_at, shared_exponent, split_sign

# An operand whose exponent is lower than the other's by more than this is below 2**-25 of a unit.
MAX_ALIGNMENT = 40


def add(
    x: Tensor, y: Tensor, bits: int, random: RandomBits | None, inplace: bool = False
) -> Tensor:
    """The sum of float32 ``x`` and ``y``, of one shape, each mapped to ``bits`` bits.

    The sum of mantissas is below 2**57, so exact; an operand whose exponent lies more than
    `MAX_ALIGNMENT` below the other's counts as zero.

    Args:
        random: the name of the random bits, or None to round both to nearest.
        inplace: whether the sum replaces ``x``.

    Raises:
        ValueError: if they are not of one shape and float32.
        NonFiniteError: if an element is infinite or not a number.
    """
    check_operands(x, y)
    draws = (None, None)
    if random is not None:
        drawn = random.draw(x.numel(), x.device).view(x.shape)
        draws = drawn, 65535 - drawn
    terms = []
    for operand, drawn in zip((x, y), draws, strict=True):
        negative, magnitude = split_sign(operand)
        exponent = shared_exponent(magnitude, bits)
        mantissa = mantissa_at(magnitude, exponent, drawn)
        if mantissa.any():
            terms.append((torch.where(negative, -mantissa, mantissa), exponent))
    high = max((exponent for _, exponent in terms), default=0)
    terms = [term for term in terms if term[1] >= high - MAX_ALIGNMENT]
    low = min((exponent for _, exponent in terms), default=0)
    total = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
    for mantissa, exponent in terms:
        total += mantissa << (exponent - low)
    out = dequantize(total, low)
    return x.copy_(out) if inplace else out


def check_operands(x: Tensor, y: Tensor) -> None:
    """Raises ValueError if ``x`` and ``y`` are not of one shape and float32."""
    if x.shape != y.shape or x.dtype != torch.float32 or y.dtype != torch.float32:
        raise ValueError(
            f'a tensor of shape {tuple(x.shape)} and {x.dtype} and one of shape {tuple(y.shape)} '
            f'and {y.dtype} were given, two of one shape and torch.float32 are accepted: expand '
            'one, or convert it with .float()'
        )
