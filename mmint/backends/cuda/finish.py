"""Before and after a product: arguments of the kernels in finish.cu."""

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

STATE_WORDS, MAGNITUDE = 6, 3  # of `finish_state`


class Finish:
    """What happens before and after a product: the structs ``finish_state`` and ``finish``.

    As a context it prepares them, and mends the result where all sums are zero.

    Args:
        length: of the sums.
        channel_dim: that of the bias, along which groups with exponents of their own lie.
        members: how many numbers of sums make such a group, if not its channels.
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
    ) -> None:
        device = out.device
        self.out, self.channel_dim = out, channel_dim
        self.groups = max(1, a.exponent.numel(), b.exponent.numel())
        self.members = members or out.shape[channel_dim] // self.groups
        shape = self.groups, STATE_WORDS
        self.state = torch.empty(shape, dtype=torch.int32, device=device)
        self.bias = self.rounded = flag = None
        call = count = 0
        if bias is not None:
            self.bias, count = bias.detach().contiguous(), len(bias)
            self.rounded = torch.empty(count, dtype=torch.int64, device=device)
            flag, call = finite.flag(device), finite.number(device)
        launch('finish.cu', 'prepare', 1, THREADS, [
            (*by_group(a), *by_group(b), self.state, self.groups, self.bias, self.rounded, count,
             length * most(a.bits, b.bits), flag, call, words(random, device)),
        ], device)  # fmt: skip

    def arguments(self) -> tuple[Argument, ...]:
        """The struct ``finish`` of finish.cuh."""
        return self.state, self.rounded, self.members if self.groups > 1 else 0

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
                [self.state, self.bias, out, *sizes], out.device,
            )  # fmt: skip
        remember_magnitude(out, self.state[0, MAGNITUDE])


def most(*bits: int) -> int:
    """The largest magnitude of a product of mantissas."""
    return math.prod(2 ** (b - 1) - 1 for b in bits)
