"""The update of a parameter: arguments of the kernel in sgd.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits, Role, mantissa_dtype, scalar
from ..replays import Rate
from . import finite
from .launch import SERVED, THREADS, launch, words

PHASES = 8
STATE_WORDS = 8
NESTEROV_PHASES = (4, 5)
ONE_BLOCK = (
    4 * SERVED * THREADS
)  # elements of a parameter that one block updates, all phases at once


def sgd_step(
    param: Tensor,
    grad: Tensor,
    momentum_buffer: FixedPoint | None,
    bits: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    random: RandomBits,
) -> FixedPoint:
    """As `Backend.sgd_step`."""
    device, dtype = param.device, mantissa_dtype(bits)
    values, grad = param.detach().contiguous(), grad.detach().contiguous()
    buffer = torch.empty(param.shape, dtype=dtype, device=device)
    exponent = torch.empty((), dtype=torch.int32, device=device)
    old, old_exponent = None, None
    if momentum_buffer is not None:
        old = momentum_buffer.mantissa.to(dtype).contiguous()
        old_exponent = momentum_buffer.exponent
    n = param.numel()
    work = torch.empty((3 if nesterov else 2, n), dtype=torch.int16, device=device)
    state = torch.zeros(STATE_WORDS, dtype=torch.int64, device=device)
    arguments = (
        values, grad, old, old_exponent, buffer, exponent, work, state, finite.flag(device),
        finite.number(device), n, bits, int(nesterov),
        scalar(momentum), scalar(weight_decay), scalar(-lr),
        words(random._replace(role=Role(0)), device),
        lr.words if isinstance(lr, Rate) else None,
    )  # fmt: skip
    if n <= ONE_BLOCK:
        launch('sgd.cu', 'sgd_step', 1, THREADS, [arguments, 0, PHASES - 1], device)
    else:
        for phase in range(PHASES):
            if nesterov or phase not in NESTEROV_PHASES:
                blocks = -(-n // (SERVED * THREADS))
                launch('sgd.cu', 'sgd_step', blocks, THREADS, [arguments, phase, phase], device)
    if values.data_ptr() != param.data_ptr():
        param.detach().copy_(values)
    return FixedPoint(buffer, exponent, bits)
