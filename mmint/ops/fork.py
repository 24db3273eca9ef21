"""Gradients that meet where a tensor is used more than once, added in integers.

PyTorch adds them in float as they arrive. So each use of a tensor by an integer operation gets an
alias of its own: the first use splits the tensor into an alias for itself and a rest, the next use
splits that rest, and so on. The backward pass of a split adds its two gradients in integers, or
passes on the one there is where nobody used the rest. Parameters are left as they are: PyTorch adds
what they gather over several uses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..backends.errors import naming
from ..backends.magnitudes import known_magnitude as known_top
from ..backends.magnitudes import remember_magnitude as remember_top
from ..numerics import Role
from .function import SUM_BITS
from .mapper import Mapper


def use(x: Tensor, mapper: Mapper, role: Role = Role.GRADIENT_SUM) -> Tensor:
    """An alias of ``x`` for one use, whose gradient meets those of other uses in integers.

    Args:
        mapper: of the operation that uses ``x``.
        role: tells apart the operands of one operation.
    """
    if not (torch.is_grad_enabled() and x.requires_grad) or isinstance(x, nn.Parameter):
        return x
    version, rest = getattr(x, '_mmint_rest', (None, x))
    if version != x._version or rest.grad_fn.spent:  # the first use since it was written
        rest = x
    alias, rest = _Fork.apply(rest, mapper, role)
    x._mmint_rest = x._version, rest
    top = known_top(x)
    if top is not None:
        remember_top(alias, top)
    return alias


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mapper: Mapper, role: Role) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.mapper, ctx.role, ctx.spent = mapper, role, False
        return x.data, x.data  # a view would keep its base, and so itself, alive

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, others: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        ctx.spent = True
        if grad is None or others is None:
            return others if grad is None else grad, None, None
        mapper = ctx.mapper
        random = mapper.site.random_bits(ctx.role, mapper.call)
        with naming(lambda: mapper.not_finite(Role.GRADIENT)):
            return mapper.backend(grad).add(grad, others, SUM_BITS, random), None, None
