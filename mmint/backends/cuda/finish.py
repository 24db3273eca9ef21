"""From sums to float32: arguments of products (finish.cuh) and of the kernels in finish.cu."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits
from ..host.exponents import by_group
from ..magnitudes import remember_magnitude
from . import finite
from .launch import THREADS, launch, words
from .launcher import Argument
from .zeroed import zeros

INT32_MOST = (1 << 31) - 1

STATE_WORDS = 5  # of `finish_state`


class Finish:
    """What comes after a product's sums: the struct ``finish``.

    Where there is a bias, a launch before the product rounds it; as a context it launches after it
    what mends the result where all sums are zero.

    Args:
        length: of the sums.
        channel_dim: that of the bias, along which groups with exponents of their own lie.
        members: how many numbers of sums make such a group, if not its channels.
        by_channel: whether the largest magnitude of each channel is noted, which norms ask for.
    """

    def __init__(
        self,
        out: Tensor,
        a: FixedPoint,
        b: FixedPoint,
        length: int,
        bias: Tensor | None = None,
        random: RandomBits | None = None,
        channel_dim: int = 1,
        members: int | None = None,
        by_channel: bool = False,
    ) -> None:
        device, bound = out.device, length * most(a.bits, b.bits)
        self.out, self.channel_dim = out, channel_dim
        self.groups = max(1, a.exponent.numel(), b.exponent.numel())
        self.members = members or out.shape[channel_dim] // self.groups
        self.by_channel = by_channel
        self.tops = zeros((1, out.shape[1], 1, 1) if by_channel else (), torch.int32, device)
        self.bias = self.states = rounded = None
        exponents = *by_group(a), *by_group(b)
        if bias is not None:
            self.bias, count = bias.detach().contiguous(), len(bias)
            self.states = torch.empty((self.groups, STATE_WORDS), dtype=torch.int32, device=device)
            rounded = torch.empty(count, dtype=torch.int64, device=device)
            launch('finish.cu', 'prepare', 1, THREADS, [
                (*exponents, self.states, self.groups, self.bias, rounded, count, bound,
                 finite.flag(device), finite.number(device), words(random, device)),
            ], device)  # fmt: skip
        self.arguments: tuple[Argument, ...] = (
            self.states, rounded, *exponents, self.groups, self.members,
            int(bound <= INT32_MOST), int(by_channel), self.tops,
        )  # fmt: skip

    def __enter__(self) -> Finish:
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        if error is not None:
            return
        out = self.out
        if self.bias is not None and out.numel():
            dim = self.channel_dim % out.dim()
            sizes = (math.prod(out.shape[:dim]), out.shape[dim], math.prod(out.shape[dim + 1 :]))
            launch(
                'finish.cu', 'bias_alone', -(-out.numel() // (4 * THREADS)), THREADS,
                [self.states, self.bias, out, self.tops, int(self.by_channel), *sizes], out.device,
            )  # fmt: skip
        remember_magnitude(out, self.tops)


def most(*bits: int) -> int:
    """The largest magnitude of a product of mantissas."""
    return math.prod(2 ** (b - 1) - 1 for b in bits)
