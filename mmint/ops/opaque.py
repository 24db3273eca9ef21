"""Code that nobody looks into: it hands addresses to kernels, which tracers must not record."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def opaque(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, run as it is under `torch.compile`, and seen by no `TorchFunctionMode`.

    So the mode of `mmint.ops.scope` is not entered again by each tensor that an integer operation
    touches.
    """

    @torch.compiler.disable
    @functools.wraps(function)
    def unseen(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return function(*args, **kwargs)

    return unseen
