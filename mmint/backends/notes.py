"""What is noted of a tensor: attributes that count while its contents stay as they were.

A note travels with the tensor, which autograd keeps for forward results and for gradients. Any
change that PyTorch sees, in place or through a view, makes it void, and so does a copy. (PyTorch
does not see what is written through ``x.data`` or NumPy.)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def note(x: Tensor, name: str, value: Any) -> None:
    """Notes ``value`` of ``x`` under ``name``; not in inference mode, where changes do not show."""
    if not x.is_inference():
        setattr(x, f'_mmint_{name}', (value, *_state(x)))


def noted(x: Tensor, name: str) -> Any:
    """What `note` was given, if ``x`` is as it was then, else None."""
    if x.is_inference():
        return None
    value, *state = getattr(x, f'_mmint_{name}', (None,))
    return value if state == _state(x) else None


def _state(x: Tensor) -> list[int]:
    """What changes where ``x`` does. A subclass that makes its address when asked has none yet."""
    return [x._version, x.data_ptr() if type(x).data_ptr is Tensor.data_ptr else 0]
