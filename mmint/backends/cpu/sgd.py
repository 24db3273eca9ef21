"""Stochastic gradient descent: arguments of the kernel in sgd.c."""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits, Role, mantissa_dtype, scalar
from .library import ready
from .operands import check_finite, random_words, with_exponent


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
    dtype = mantissa_dtype(bits)
    values, grad = param.detach().contiguous(), grad.detach().contiguous()
    buffer = torch.empty(param.shape, dtype=dtype)
    old, old_exponent = None, 0
    if momentum_buffer is not None:
        old = momentum_buffer.mantissa.to(dtype).contiguous()
        old_exponent = int(momentum_buffer.exponent)
    exponent = ready().sgd_step(
        param=values, grad=grad, momentum=old, out=buffer, n=param.numel(), bits=bits,
        momentum_exponent=old_exponent, **with_exponent('momentum_factor', scalar(momentum)),
        **with_exponent('weight_decay', scalar(weight_decay)),
        **with_exponent('negative_lr', scalar(-lr)), nesterov=nesterov,
        **random_words(random._replace(role=Role(0))), threads=torch.get_num_threads(),
    )  # fmt: skip
    check_finite(exponent)
    if values.data_ptr() != param.data_ptr():
        param.detach().copy_(values)
    return FixedPoint(buffer, torch.tensor(exponent, dtype=torch.int32), bits)
