"""Gradients of a parameter that several operations use, added in integers.

A head that serves every level of a pyramid uses its weights once a level, and PyTorch adds their
gradients in float as they reach the parameter. A backward pass runs operations latest first, so of
those that use a parameter the earliest runs last. When there is a second one, each gets a hook. It
adds the operation's gradient to what later ones left and leaves the sum to the next, so that the
parameter is given one gradient, by the earliest operation that takes part in this backward pass.

No node is added to the graph, and what a parameter pays that is used once is a look into a table.
Re-entrant checkpointing makes backward passes of its own, between which PyTorch adds as ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary, ref

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from ..numerics import Role
from .mapper import Mapper

_ROLES = Role.WEIGHT_GRADIENT_SUM, Role.BIAS_GRADIENT_SUM


def shared(out: Tensor, mapper: Mapper, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """``out``, whose gradients for parameters meet those of other operations in integers.

    Args:
        out: what a `torch.autograd.Function` has just returned.
        mapper: of the operation.
        weight, bias: what it was given. Leaves with a gradient count, such as parameters.
    """
    node = out.grad_fn
    if not isinstance(node, BackwardCFunction):  # no gradients; or in place, on a view
        return out
    for parameter, role in zip((weight, bias), _ROLES, strict=True):
        if parameter is not None and parameter.requires_grad and parameter.is_leaf:
            uses = _all_uses.get(id(parameter))
            if uses is None:
                uses = _all_uses[id(parameter)] = _Uses(parameter)
            uses.add(_Use(ref(node), mapper, role))
            node.__dict__.setdefault('shared', []).append(uses)  # which live as long as it does
    return out


@dataclass
class _Use:
    """An operation that uses a parameter, by its node in the graph."""

    node: ref[Any]
    mapper: Mapper
    role: Role
    hooked: bool = False


@dataclass
class _Meeting:
    """Gradients that meet in one backward pass.

    Attributes:
        total: the sum of those that have come.
        last: the node that hands it over, None once it has.
    """

    last: Any
    total: Tensor | None = None


class _Uses:
    """The operations that use a parameter, earliest first, while their graphs live."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.uses: list[_Use] = []
        self.meetings: dict[int, _Meeting] = {}  # by the number of a backward pass

    def add(self, new: _Use) -> None:
        """Adds an operation; a second one gives all of them hooks."""
        self.uses = [*(use for use in self.uses if use.node() is not None), new]
        for use in self.uses if len(self.uses) > 1 else ():
            node = use.node()
            if not use.hooked and node is not None:
                leaves = [getattr(edge, 'variable', None) for edge, _ in node.next_functions]
                place = next(i for i, leaf in enumerate(leaves) if leaf is self.parameter)
                node.register_hook(lambda grads, _, use=use, i=place: self.meet(use, i, grads))
                use.hooked = True

    def meet(self, use: _Use, place: int, grads: tuple[Tensor | None, ...]) -> Any:
        """The gradients of an operation, with the sum or nothing for the parameter."""
        node, grad = use.node(), grads[place]
        meeting = self.meeting(node)
        if meeting.last is None or grad is None:
            return grads
        total: Tensor | None = grad
        if meeting.total is not None:
            total = use.mapper.add(grad, meeting.total, use.role)
        if node is meeting.last:
            meeting.last = meeting.total = None
        else:
            meeting.total, total = total, None
        return *grads[:place], total, *grads[place + 1 :]

    def meeting(self, node: Any) -> _Meeting:
        """That of the backward pass which runs now, and has come to ``node``."""
        number = torch._C._current_graph_task_id()
        if number not in self.meetings:
            runs = torch._C._will_engine_execute_node  # False of the one that it begins with
            nodes = [use.node() for use in self.uses]
            last = next((n for n in nodes if n is not None and (n is node or runs(n))), node)
            going_on = {k: m for k, m in self.meetings.items() if m.last is not None}
            self.meetings = {**going_on, number: _Meeting(last)}
        return self.meetings[number]


_all_uses: WeakValueDictionary[int, _Uses] = WeakValueDictionary()
