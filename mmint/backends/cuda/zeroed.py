"""Zeroed memory for kernels that add to it, or take maxima in it.

`torch.zeros` is a launch of its own, and nearly every operation needs a few words. So a megabyte is
zeroed by one launch, and each call is given a part that no other call gets; the memory is free once
the last part is. Kernels of another stream would not wait for that launch, so each stream, and each
thread, has a megabyte of its own. A CUDA graph has to zero at every replay what its kernels add to:
within a capture each call gets a tensor of its own.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from ..replays import capturing

WORDS = 1 << 17  # of 64 bits, that are zeroed at once
MOST = WORDS // 8  # that a call is given of them


class _Zeroed:
    """A megabyte, seen as each type, and how many of its words were given away."""

    def __init__(self, device: torch.device) -> None:
        with torch.inference_mode(False):  # whose tensors no backward pass may keep
            words = torch.zeros(WORDS, dtype=torch.int64, device=device)
            self.seen_as = {torch.int64: words, torch.int32: words.view(torch.int32)}
        self.given = 0


class _Latest(threading.local):
    """That of each device and stream."""

    def __init__(self) -> None:
        self.of: dict[tuple[torch.device, int], _Zeroed] = {}


_latest = _Latest()


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As `torch.zeros` of int32 or int64; nothing but kernels may change it in place."""
    words = -(-math.prod(shape) * dtype.itemsize // 8)
    if words > MOST or capturing():
        return torch.zeros(shape, dtype=dtype, device=device)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == 'cuda' else 0
    zeroed = _latest.of.get((device, stream))
    if zeroed is None or zeroed.given + words > WORDS:
        zeroed = _latest.of[device, stream] = _Zeroed(device)
    first, strides = zeroed.given * 8 // dtype.itemsize, []
    zeroed.given += words
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return zeroed.seen_as[dtype].as_strided(shape, strides[::-1], first)
