"""Watching the calls of operations: what the audit counts, and what tests look at."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from .contract import OPERATIONS, Backend

Observer = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_observers: tuple[Observer, ...] = ()


@contextmanager
def watched(observer: Observer) -> Iterator[None]:
    """Within this context ``observer`` stands in for the operations of `backend_for`'s backends.

    ``observer(name, operation, args, kwargs)`` calls ``operation(*args, **kwargs)`` itself and
    returns its result. It sees the calls of all threads, for backward passes may have their own.
    """
    global _observers
    outer = _observers
    _observers = (*outer, observer)
    try:
        yield
    finally:
        _observers = outer


def seen(backend: Backend) -> Backend:
    """``backend`` as those see it who watch, itself where nobody does."""
    for observer in _observers:
        backend = cast(Backend, _Watched(backend, observer))
    return backend


class _Watched:
    def __init__(self, backend: Backend, observer: Observer) -> None:
        self._backend, self._observer = backend, observer

    quantize_all = None  # each mapping is seen

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._backend, name)
        if name not in OPERATIONS:
            return member

        @functools.wraps(member)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._observer(name, member, args, kwargs)

        return call
