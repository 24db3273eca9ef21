"""The largest magnitude of a tensor, remembered by the kernel that wrote it.

A mapping needs the largest magnitude of its tensor before it rounds the first element. A kernel
that notes it on its way out spares the mapping a pass over memory. It travels as an attribute of
the tensor, which autograd keeps on forward results and on gradients, and counts for the contents
it was taken from only: any change that PyTorch sees, in place or through a view, makes it void.
(PyTorch does not see what is written through ``x.data`` or NumPy.)
"""

from __future__ import annotations

from torch import Tensor


def remember_top(x: Tensor, top: int | Tensor) -> None:
    """Notes that ``top == max(bits(x) & 0x7fffffff)`` (0 for an empty tensor), exactly.

    Args:
        x: float32, any shape.
        top: an int, or on a GPU an int32 tensor of one element there, which nobody waits for.
    """
    if not x.is_inference():  # such tensors do not tell when they change
        _holder(x)._mmint_top = (top, x._version, x.data_ptr())


def known_top(x: Tensor) -> int | Tensor | None:
    """What `remember_top` noted of ``x``, as it is now, under this or another shape."""
    if x.is_inference():
        return None
    top, *state = getattr(_holder(x), '_mmint_top', (None,))
    return top if state == [x._version, x.data_ptr()] else None


def _holder(x: Tensor) -> Tensor:
    """The tensor that ``x`` reshapes, with all of its elements, each once; or ``x`` itself."""
    base = x._base
    reshapes = (
        base is not None
        and x.numel() == base.numel()
        and x.dtype == base.dtype
        and x.is_contiguous()
        and base.is_contiguous()
    )
    return base if reshapes else x
