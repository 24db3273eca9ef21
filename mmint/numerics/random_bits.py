"""Random bits that depend on nothing but their name: counter-based, Philox 4x32-7.

The bits of an element are a pure function of (seed, rank, layer, iteration, role, call, element),
never of threads, blocks, execution order or backend. Philox is from Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3" (SC 2011), who found seven rounds enough for BigCrush; ten are a
margin that rounding does not need.

One Philox block maps a 128-bit counter and a 64-bit key to four 32-bit words, here::

    key     = (seed, layer)
    counter = (block, iteration, call << 8 | role, rank)

Each word is two draws of 16 bits, and each draw ``r`` serves two neighbours (in row-major order of
the logical shape, whatever the memory layout): element ``2 * i`` takes ``r``, element ``2 * i + 1``
takes ``2**16 - 1 - r``. Either is uniform, so that each element is rounded without bias; together
they are antithetic: where one is rounded up the other is rather rounded down, and sums over
neighbours vary less, never more, than with bits of their own.

A block serves sixteen elements, and eight consecutive blocks 128 consecutive elements, such that
eight SIMD lanes or GPU threads, each computing one block, hold pairs in order: elements
``128 * g + 32 * w + 16 * h + 2 * l`` and the next take half ``h`` (0: low) of word ``w`` of block
``8 * g + l``.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_INCREMENTS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 7
MAX_ELEMENTS = 2**36


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
    WEIGHT_OF_GRADIENT = 9  # the weight once more, for the input gradient
    SGD_PARAMETER = 16  # float32 parameter -> mantissas
    SGD_MOMENTUM = 17  # narrowing the sum of momentum, gradient and weight decay
    SGD_NESTEROV = 18  # narrowing Nesterov's
    SGD_UPDATE = 19  # narrowing the sum of parameter and step


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
        groups = (numel + 127) // 128
        blocks = torch.arange(8 * groups, dtype=torch.int64, device=device)
        k0, k1, c1, c2, c3 = self.words()
        counter = [blocks] + [torch.full_like(blocks, c) for c in (c1, c2, c3)]
        words = philox(counter, (k0, k1))
        drawn = torch.stack([half for w in words for half in (w & 0xFFFF, w >> 16)])
        # (word and half, group, lane) -> (group, word and half, lane, neighbour)
        drawn = drawn.view(8, groups, 8).transpose(0, 1)
        return torch.stack([drawn, 0xFFFF - drawn], dim=-1).reshape(-1)[:numel]


def philox(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox 4x32-7 of four int64 tensors holding 32-bit words; returns four such tensors."""
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
