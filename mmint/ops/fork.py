"""Gradients that meet where a tensor is used more than once, added in integers.

PyTorch adds them in float as they arrive. So each use of a tensor by an integer operation gets an
alias of its own: the first use splits the tensor into an alias for itself and a rest, the next use
splits that rest, and so on. The backward pass of a split adds its two gradients in integers, or
passes on the one there is where nobody used the rest. Parameters are left as they are: what they
gather over several uses is the matter of `sharing`.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from ..backends.magnitudes import known_magnitude, remember_magnitude
from ..backends.notes import note, noted
from ..numerics import Role
from .deferred import alias_of
from .derivative import first_derivative
from .mapper import Mapper


def use(x: Tensor, mapper: Mapper, role: Role = Role.GRADIENT_SUM) -> Tensor:
    """An alias of ``x`` for one use, whose gradient meets those of other uses in integers.

    Args:
        mapper: of the operation that uses ``x``.
        role: tells apart the operands of one operation.
    """
    if not (torch.is_grad_enabled() and x.requires_grad) or isinstance(x, nn.Parameter):
        return x
    chain = noted(x, 'forks')
    if not isinstance(chain, _Chain) or chain.rest is None:  # the first use since it was written
        chain = _Chain(x)
        note(x, 'forks', chain)
    alias, chain.rest = _Fork.apply(chain.rest, mapper, role, chain)
    magnitude = known_magnitude(x)
    if magnitude is not None:
        remember_magnitude(alias, magnitude)
    return alias


def maker_of(x: Tensor) -> tuple[Any, int]:
    """The node that made ``x``, and how often ``x`` has been split since."""
    node: Any = x.grad_fn
    splits = 0
    while getattr(node, '_forward_cls', None) is _Fork:
        node, splits = node.next_functions[0][0], splits + 1
    return node, splits


class _Chain:
    """The splits of a tensor, which holds this: how many, and the rest that the last one left.

    The rest leads to the tensor, if that is a leaf, so a backward pass lets go of it. Copies of the
    tensor, and saved ones, have no splits.
    """

    def __init__(self, rest: Tensor | None = None) -> None:
        self.rest, self.splits = rest, 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Chain:
        return _Chain()

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, ()  # which `torch.load` knows


class _Fork(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mapper: Mapper, role: Role, chain: _Chain
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        chain.splits += 1
        ctx.mapper, ctx.role = mapper, role
        ctx.chain, ctx.place = weakref.ref(chain), chain.splits
        return alias_of(x), alias_of(x)  # a view would keep its base, and so itself, alive

    @staticmethod
    @first_derivative
    def backward(
        ctx: Any, grad: Tensor | None, others: Tensor | None
    ) -> tuple[Tensor | None, None, None, None]:
        chain = ctx.chain()
        if chain is not None and chain.splits == ctx.place:
            chain.rest = None
        if grad is None or others is None:
            return others if grad is None else grad, None, None, None
        return ctx.mapper.add(grad, others, ctx.role), None, None, None
