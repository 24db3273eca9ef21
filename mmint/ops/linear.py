"""Linear layers: paper section 3.3; mapped once, as in `conv`."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from torch.autograd import Function

from ..numerics import Role
from .bias import add_bias
from .derivative import first_derivative
from .fork import use
from .mapper import Mapper
from .matmul import transposed
from .saved import mapped, restore, save
from .sharing import shared
from .weights import Weights


def linear(
    x: Tensor, weight: Tensor, mapped_weight: Weights, bias: Tensor | None, mapper: Mapper
) -> Tensor:
    """Integer ``x @ weight.T + bias`` of float32 ``x`` (..., in); returns float32 (..., out).

    Args:
        weight: float32 (out, in): where the weight gradient goes.
        mapped_weight: ``weight`` for both passes, by `map_weight`.
        bias: float32 (out,) or None.
    """
    x = use(x, mapper)
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    out = _Linear.apply(rows, weight, bias, mapped_weight, mapper)
    out = shared(out, mapper, weight, bias)
    # No view of rows: a layer after this one may change its result in place.
    return out if x.dim() == 2 else out.view(*x.shape[:-1], len(weight))


class _Linear(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mapped_weight: Weights,
        mapper: Mapper,
    ) -> Tensor:
        mapped_x = mapper(x, Role.INPUT)
        save(ctx, mapped_x, mapped_weight.gradient)
        ctx.mapper = mapper
        product = partial(
            mapper.backend(x).matmul, mapped_x, transposed(mapped(mapped_weight.forward))
        )
        return add_bias(product, bias, mapper)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = restore(ctx)
        backend = ctx.mapper.backend(grad)
        mapped_grad = ctx.mapper(grad, Role.GRADIENT)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        return (
            backend.matmul(mapped_grad, mapped(weight)) if needs_x else None,
            backend.matmul(transposed(mapped_grad), x) if needs_weight else None,
            backend.channel_sum(mapped_grad, 1) if needs_bias else None,
            None,
            None,
        )
