"""Integer classes that stay instances of the class that they replace."""

from __future__ import annotations

from typing import Any

from torch import nn

_derived: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def keeping_class(integer: type[nn.Module], stock: type[nn.Module]) -> type[nn.Module]:
    """``integer``, or a subclass of it and of ``stock``, so that `isinstance` finds both.

    What ``stock`` has beside its forward pass is kept: how it loads a checkpoint, what it does in
    ``train()``, what it is called with. Its bases are named too, where mmengine's initializers look
    for them. Instances are copied and pickled as ever, by the two classes.
    """
    if issubclass(integer, stock):
        return integer
    if (integer, stock) not in _derived:
        members = {
            '__module__': integer.__module__,
            '__doc__': integer.__doc__,
            '__reduce_ex__': _reduce,
        }
        bases = integer, stock, *stock.__bases__
        _derived[integer, stock] = type(integer.__name__, bases, members)
    return _derived[integer, stock]


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    integer, stock, *_ = type(self).__bases__
    state = object.__reduce_ex__(self, protocol)[2]
    return _empty, (integer, stock), state


def _empty(integer: type[nn.Module], stock: type[nn.Module]) -> nn.Module:
    kind = keeping_class(integer, stock)
    return kind.__new__(kind)
