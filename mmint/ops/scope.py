"""What modules compute in their own code: additions, products, pooling, run in integers.

Stock blocks write ``out += identity``, ``x @ y`` or call `scaled_dot_product_attention` between
their layers. A `TorchFunctionMode` is PyTorch's own way to see such calls: above autograd, so that
an operation brings its own backward pass, and without a line of the blocks being edited, copied or
traced, so that control flow, hooks and checkpointing stay as they are. It is active while the
forward pass of a converted module runs, and off in the modules that conversion left out and outside
of all (losses, box coding, data preprocessing), which therefore stay in float.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..numerics import FREE, Role, check_bits, check_exponents
from .deferred import plain
from .exporting import cannot_be_exported, check_not_exported
from .mapper import Mapper
from .registry import integer_version
from .run import Site, current_run


class ForwardScope:
    """Stands in for a module's ``forward``: what its code computes itself becomes integer, or not.

    It is an attribute of the module, not a class of its own, so that the module keeps its class,
    copies and pickles as ever, and is found by ``module(x)`` and ``module.forward(x)`` alike.

    Attributes:
        module: whose forward pass it is.
        site: the name and number of the module in error messages and random bits.
        bits: width of the mantissas, None to leave the module's own operations in float.
        exponents: as in `mmint.convert`.
        own: a ``forward`` that the module had as an attribute, and is called as ever.
    """

    def __init__(
        self, module: nn.Module, site: Site, bits: int | None, exponents: str = FREE
    ) -> None:
        self.module, self.site = module, site
        self.exponents = check_exponents(exponents)
        self.bits = bits if bits is None else check_bits(bits)
        own = module.__dict__.get('forward')
        self.own: Callable[..., Any] | None = own.own if isinstance(own, ForwardScope) else own

    @torch.compiler.disable
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The stock forward pass, within this scope, and not traced by `torch.compile`.

        Nothing deferred goes into a module that stays in float, or leaves the outermost one.

        Raises:
            RuntimeError: if the model is being exported.
        """
        check_not_exported(self.site.name, *args, *kwargs.values())
        outer = current_place()
        training = self.module.training if outer is None else outer.training
        if self.bits is None:
            args, kwargs = plain((args, kwargs))
        with entered(Place(self, training)):
            if self.own is not None:
                out = self.own(*args, **kwargs)
            else:
                out = type(self.module).forward(self.module, *args, **kwargs)
        return plain(out) if outer is None else out

    def __getattr__(self, name: str) -> Any:
        if name in ('__code__', '__globals__'):  # asked for by what exports
            raise AttributeError(cannot_be_exported(self.site.name))
        raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')

    def mapper(self) -> Mapper:
        """The mapper of one operation."""
        assert self.bits is not None  # a scope that stays in float has none
        call = current_run.next_call(self.site.number, Role.INPUT)
        return Mapper(self.site, self.bits, self.module.training, call, self.exponents)


_local = threading.local()  # as PyTorch's stack of modes is


class Place(NamedTuple):
    """Where in a model we are: the innermost module's scope, and whether the outermost trains."""

    scope: ForwardScope
    training: bool


def current_place() -> Place | None:
    """The place of what runs in this thread, None outside of converted modules."""
    return getattr(_local, 'place', None)


def is_training() -> bool:
    """Whether what runs in this thread belongs to a model that trains, frozen parts included."""
    place = current_place()
    return place is not None and place.training


@contextmanager
def entered(place: Place | None) -> Iterator[None]:
    """Within this context, operations belong to ``place``."""
    outer, _local.place = current_place(), place
    try:
        if place is None or outer is not None:  # off, or the mode is active already
            yield
        else:
            with _IntegerOperations():
                yield
    finally:
        _local.place = outer


class _IntegerOperations(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        place = current_place()
        scope = None if place is None else place.scope
        integer = None if scope is None or scope.bits is None else integer_version(func)
        out = NotImplemented if integer is None else integer(scope, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if out is NotImplemented else out
