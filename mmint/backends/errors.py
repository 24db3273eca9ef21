"""Under whose name backends raise a `NonFiniteError`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from ..numerics import NonFiniteError

__all__ = ['NonFiniteError', 'check', 'named_error', 'naming']

_local = threading.local()


class naming:
    """Within this context ``error()`` is raised for a value that is not finite.

    At once on a CPU, at the backend's next `check` on a GPU, where nothing waits for the device.
    """

    def __init__(self, error: Callable[[], NonFiniteError]) -> None:
        self._error = error

    def __enter__(self) -> None:
        self._outer, _local.error = named_error(), self._error

    def __exit__(self, kind: Any, raised: Any, trace: Any) -> None:
        _local.error = self._outer
        if isinstance(raised, NonFiniteError):
            raise self._error() from None


def named_error() -> Callable[[], NonFiniteError] | None:
    """What `naming` was given, for backends that raise it later."""
    return getattr(_local, 'error', None)


def check(device: torch.device) -> None:
    """Raises what calls on ``device`` have not raised yet: nothing, for here they raise at once."""
