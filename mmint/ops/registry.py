"""The PyTorch functions that become integer inside of converted modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch._ops import OpOverloadPacket

from .mapper import Mapper


class Scope(Protocol):
    """The module that calls a function, as the function's integer version sees it."""

    bits: int

    def mapper(self) -> Mapper:
        """The mapper of one operation."""


Integer = TypeVar('Integer', bound=Callable[..., Any])
_INTEGER: dict[Callable[..., Any] | str, Callable[..., Any]] = {}


def integer(*functions: Callable[..., Any] | str) -> Callable[[Integer], Integer]:
    """Registers the integer version of PyTorch functions.

    An operator of another library is given by its name, ``'library::operator'``, so that the
    library need not be there. The version takes the `Scope` and the arguments of the function, and
    returns NotImplemented for what stays float.
    """

    def register(version: Integer) -> Integer:
        _INTEGER.update(dict.fromkeys(functions, version))
        return version

    return register


def integer_version(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """What was registered for ``function``."""
    if isinstance(function, OpOverloadPacket):
        return _INTEGER.get(function._qualified_op_name)
    return _INTEGER.get(function)
