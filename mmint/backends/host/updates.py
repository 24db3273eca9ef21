"""The memory in which kernels update parameters: without gaps, whatever its owner's layout."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...numerics import FixedPoint, mantissa_dtype, scalar
from ..update import Update

# A learning rate or factor as mantissa and exponent; a run has few at a time.
factor = lru_cache(maxsize=64)(scalar)


class Memory(NamedTuple):
    """One update's tensors, in row-major order.

    Attributes:
        param, grad, mantissa: the update's own tensors where they lie without gaps, else copies.
        momentum: what `Backend.sgd_step` returns; None where the momentum factor is 0.
        mantissa: of the momentum.
        is_first: whether there is no momentum yet.
    """

    param: Tensor
    grad: Tensor
    mantissa: Tensor | None
    momentum: FixedPoint | None
    is_first: bool

    @classmethod
    def of(cls, update: Update) -> Memory:
        """Makes a momentum, zero, where there is none yet."""
        param, momentum = update.param.detach(), update.momentum_buffer
        if not update.momentum:
            momentum = None
        elif momentum is None:
            momentum = FixedPoint(
                torch.zeros(param.shape, dtype=mantissa_dtype(update.bits), device=param.device),
                torch.zeros((), dtype=torch.int32, device=param.device),
                update.bits,
            )
        return cls(
            param.contiguous(),
            update.grad.detach().contiguous(),
            momentum and momentum.mantissa.to(mantissa_dtype(update.bits)).contiguous(),
            momentum,
            update.momentum_buffer is None,
        )

    def write_back(self, update: Update) -> None:
        """Where the update's tensors have gaps, copies the kernel's results to them."""
        if self.param.data_ptr() != update.param.data_ptr():
            update.param.detach().copy_(self.param)
        if self.momentum is None or self.mantissa is None:
            return
        if self.mantissa.data_ptr() != self.momentum.mantissa.data_ptr():
            self.momentum.mantissa.copy_(self.mantissa)
