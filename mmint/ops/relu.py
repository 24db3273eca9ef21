"""ReLU and ReLU6 whose saved state is a bit an element: exact as they are.

Of a deferred tensor they wait with it; their gradient's elements wait for who reads them.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.autograd import Function

from ..backends import backend_for
from ..backends.magnitudes import known_magnitude
from ..backends.source import Masked, Source
from .deferred import Deferred, deferred, source_of, written
from .derivative import first_derivative
from .noting import apply_noting_magnitude
from .waiting import gradient_waits


def relu(x: Tensor, inplace: bool, ceiling: float = math.inf) -> Tensor:
    """ReLU of float32 ``x`` of any shape, cut at ``ceiling``."""
    return apply_noting_magnitude(_ReLU, x, inplace, ceiling)


class _ReLU(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, inplace: bool, ceiling: float, magnitudes: list[int | Tensor | None]
    ) -> Tensor:
        backend, source, passed = backend_for(x.device), source_of(x), None
        waiting = gradient_waits(x)
        if isinstance(source, Source) and source.ceiling is None:
            source = source._replace(ceiling=ceiling)
            if ctx.needs_input_grad[0]:
                passed = backend.relu_passed(source)
            if inplace:
                assert isinstance(x, Deferred)
                x.replace(source)
            out = x if inplace else deferred(source)
        else:
            out, passed = backend.relu(written(x), inplace, ceiling)
        if inplace:
            ctx.mark_dirty(out)
        ctx.save_for_backward(passed)
        ctx.gradient_waits, ctx.takes_sources = waiting, False
        magnitudes.append(known_magnitude(out))
        return out

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (passed,) = ctx.saved_tensors
        grad = written(grad)
        if ctx.gradient_waits:
            return deferred(Masked(grad, passed)), None, None, None
        return backend_for(grad.device).relu_grad(grad, passed), None, None, None
