"""What is said where a converted model is exported, which kernels of its own cannot be."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Proxy


def cannot_be_exported(name: str) -> str:
    """The error for the module ``name``, that of the model itself if it has none."""
    return (
        f'{name or "the model"} has integer operations and was to be traced, scripted or exported, '
        'a float model is accepted: export a copy, mmint.restore(copy.deepcopy(model)), which has '
        'the same weights'
    )


def check_not_exported(name: str, *args: Any) -> None:
    """Raises RuntimeError if the module ``name``, called with ``args``, is being exported."""
    exporting = getattr(torch.compiler, 'is_exporting', bool)  # PyTorch 2.7 has it
    if torch.jit.is_tracing() or exporting() or any(isinstance(arg, Proxy) for arg in args):
        raise RuntimeError(cannot_be_exported(name))
