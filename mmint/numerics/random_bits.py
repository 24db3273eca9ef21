"""Random bits that depend on nothing but their name: counter-based, Philox 4x32-10.

The bits of an element are a pure function of (seed, rank, layer, iteration, role, call, element),
never of threads, blocks, execution order or backend. Philox is from Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3" (SC 2011).

One Philox block maps a 128-bit counter and a 64-bit key to four 32-bit words, here::

    key     = (seed, layer)
    counter = (block, iteration, call << 8 | role, rank)

Each element takes 16 bits. 64 consecutive elements (in row-major order of the logical shape,
whatever the memory layout) share eight consecutive blocks, so that eight SIMD lanes or GPU threads,
each computing one block, hold their elements in order: element ``64 * g + 16 * w + 2 * l + h``
takes half ``h`` (0: low) of word ``w`` of block ``8 * g + l``.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_INCREMENTS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
MAX_ELEMENTS = 2**35


class Role(enum.IntEnum):
    """Which tensor of a layer, or of a parameter's update, the bits are for."""

    INPUT = 0
    WEIGHT = 1
    GRADIENT = 2
    BIAS = 3
    OTHER = 4  # the second operand of a product of two inputs
    GRADIENT_SUM = 5  # gradients that meet where an input is used more than once
    OTHER_GRADIENT_SUM = 6  # the same for a second operand
    WEIGHT_GRADIENT_SUM = 7  # gradients that meet where a parameter is used more than once
    BIAS_GRADIENT_SUM = 8
    SGD_PARAMETER = 16  # float32 parameter -> mantissas
    SGD_GRADIENT = 17  # float32 gradient -> mantissas
    SGD_DIRECTION_SUM = 18  # aligning gradient, weight decay and momentum
    SGD_MOMENTUM = 19  # narrowing that sum
    SGD_NESTEROV_SUM = 20
    SGD_NESTEROV = 21
    SGD_UPDATE_SUM = 22  # aligning parameter and step
    SGD_UPDATE = 23  # narrowing that sum


class RandomBits(NamedTuple):
    """The name of one tensor's random bits; each field is an unsigned 32-bit integer.

    ``call`` (24 bits) tells apart several tensors of the same role within an iteration.
    """

    seed: int
    rank: int
    layer: int
    iteration: int
    role: Role
    call: int = 0

    def words(self) -> tuple[int, int, int, int, int]:
        """``(key 0, key 1, counter 1, counter 2, counter 3)``; counter 0 is the block's number."""
        return (
            self.seed & _MASK32,
            self.layer & _MASK32,
            self.iteration & _MASK32,
            (self.call << 8 | int(self.role)) & _MASK32,
            self.rank & _MASK32,
        )

    def draw(self, numel: int, device: torch.device | str = 'cpu') -> Tensor:
        """The 16 random bits of each of ``numel`` elements, as int64 in ``[0, 2**16)``.

        This is the definition; backends compute the same bits inside their kernels.
        """
        if numel > MAX_ELEMENTS:
            raise ValueError(
                f'a tensor of {numel} elements was given, at most {MAX_ELEMENTS} have random bits '
                'of their own: split the tensor'
            )
        groups = (numel + 63) // 64
        blocks = torch.arange(8 * groups, dtype=torch.int64, device=device)
        k0, k1, c1, c2, c3 = self.words()
        counter = [blocks] + [torch.full_like(blocks, c) for c in (c1, c2, c3)]
        words = philox(counter, (k0, k1))
        halves = torch.stack([torch.stack([w & 0xFFFF, w >> 16], dim=-1) for w in words])
        # (word, group, lane, half) -> (group, word, lane, half)
        halves = halves.view(4, groups, 8, 2).transpose(0, 1)
        return halves.reshape(-1)[:numel]


def philox(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox 4x32-10 of four int64 tensors holding 32-bit words; returns four such tensors."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0 = c0 * _MULTIPLIERS[0]  # wraps modulo 2**64, which leaves both halves right
        p1 = c2 * _MULTIPLIERS[1]
        high0, low0 = p0 >> 32 & _MASK32, p0 & _MASK32
        high1, low1 = p1 >> 32 & _MASK32, p1 & _MASK32
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + _KEY_INCREMENTS[0]) & _MASK32
        k1 = (k1 + _KEY_INCREMENTS[1]) & _MASK32
    return [c0, c1, c2, c3]
