"""Under whose name backends raise a `NonFiniteError`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..numerics import NonFiniteError

__all__ = ['NonFiniteError', 'check', 'named_error', 'naming']

_local = threading.local()


@contextmanager
def naming(error: Callable[[], NonFiniteError]) -> Iterator[None]:
    """Within this context ``error()`` is raised for a value that is not finite.

    At once on a CPU, at the backend's next `check` on a GPU, where nothing waits for the device.
    """
    outer, _local.error = named_error(), error
    try:
        yield
    except NonFiniteError:
        raise error() from None
    finally:
        _local.error = outer


def named_error() -> Callable[[], NonFiniteError] | None:
    """What `naming` was given, for backends that raise it later."""
    return getattr(_local, 'error', None)


def check(device: torch.device) -> None:
    """Raises what calls on ``device`` have not raised yet: nothing, for here they raise at once."""
