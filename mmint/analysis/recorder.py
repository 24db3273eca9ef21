"""Watching one training step: every operator PyTorch executes, every call of a backend."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..backends import watched
from ..backends.contract import OPERATIONS
from .float_operations import elements, is_exact, multiply_adds, name_of
from .integer_operations import Rule, bind, rule_for
from .reasons import Origins, Place, Why, counts, explain, place_of, reason_of_operator
from .report import FloatOperation, Report
from .traffic import bytes_moved


class Recorder(TorchDispatchMode):
    """Records what runs within its context, which is one training step of ``model``.

    Integer work is what runs inside the operations of the backends: the recorder watches their
    calls, and does not look inside. All other operators pass by the dispatch mode, those of the
    autograd engine and of the optimizer included. Not seen are kernels that
    are called past PyTorch's dispatcher, such as mmcv's compiled operators.

    All that comes after the backward pass counts as the optimizer's phase.

    Raises:
        NotImplementedError: on entering, if backends have an operation without a counting rule.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {module: name for name, module in model.named_modules()}
        self._rules: dict[str, tuple[Rule, str] | None] = {}
        self._watching = watched(self._observe)
        self._origins = Origins()
        self._in_backend = self._backward_seen = False
        self.report = Report()

    def __enter__(self) -> Recorder:
        self._rules = {name: rule_for(name) for name in OPERATIONS}
        self._watching.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._watching.__exit__(*error)

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = operator(*args, **(kwargs or {}))
        if self._in_backend:
            return out
        exact = is_exact(operator, args, out)
        phase, place, origin = self._whereabouts()
        why = Why(None) if exact else explain(operator, args, place, origin)
        if origin is None:
            self._origins.add(place, why)
        if not exact:
            size, work = elements(operator, args, out), multiply_adds(operator, args, out)
            self._add_float(phase, place, name_of(operator), why, size, work)
        return out

    def _observe(
        self, name: str, operation: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        self._in_backend = True
        try:
            out = operation(*args, **kwargs)
        finally:
            self._in_backend = False
        phase, place, origin = self._whereabouts()
        if origin is None:
            self._origins.add(place, Why(None))
        if name == 'quantize':
            self.report.add_mapping(out.exponent.numel())
        rule, call = self._rules[name], bind(operation, args, kwargs, out)
        self.report.add_traffic(bytes_moved(name, call))
        if rule is not None:
            count, arithmetic = rule
            kind, work = count(call)
            if arithmetic == 'integer':
                if counts(kind, place):
                    self.report.add_integer(phase, kind, work)
            elif work:
                why = Why(reason_of_operator(name), kind)
                self._add_float(phase, place, name, why, work, work)
        return out

    def _add_float(
        self, phase: str, place: Place, operator: str, why: Why, size: int, work: int
    ) -> None:
        reason = why.reason or 'other'
        self.report.add_float(
            FloatOperation(phase, reason, operator, place.module, why.kind, 1, size, work)
        )

    def _whereabouts(self) -> tuple[str, Place, Why | None]:
        """Phase, place, and in the backward pass what the present node's forward operation was."""
        in_engine = torch._C._current_graph_task_id() != -1
        self._backward_seen |= in_engine
        place = place_of(sys._getframe(2), self._names, in_engine)
        if place is None:  # the autograd engine called it
            return 'backward', *self._origins.of_current_node()
        if in_engine:  # activation checkpointing runs a part of the model again
            return 'backward', place, None
        return 'optimizer' if self._backward_seen else 'forward', place, None
