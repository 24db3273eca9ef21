"""Products of two inputs, and attention, whose two products are integer: paper section 3.3."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from ..numerics import FixedPoint, Role
from .derivative import first_derivative
from .fork import use
from .mapper import Mapper
from .saved import restore, save


def matmul(a: Tensor, b: Tensor, mapper: Mapper) -> Tensor:
    """Integer product of float32 ``a`` (..., M, K) and ``b`` (..., K, N); returns float32.

    Leading dimensions broadcast as in `torch.matmul`. Each matrix has an exponent, where they are
    free: of attention, each image and head.
    """
    a, b = use(a, mapper), use(b, mapper, Role.OTHER_GRADIENT_SUM)
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    rows, columns = (*batch, *a.shape[-2:]), (*batch, *b.shape[-2:])
    product = _Matmul.apply(
        a.expand(rows).reshape(-1, *rows[-2:]), b.expand(columns).reshape(-1, *columns[-2:]), mapper
    )
    return product.view(*batch, *product.shape[-2:])


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    dropout: float,
    scale: float | None,
    mappers: tuple[Mapper, Mapper],
) -> tuple[Tensor, Tensor]:
    """Attention with integer products and a float softmax; returns its output and the weights.

    Args:
        query: float32 (..., L, E).
        key: float32 (..., S, E).
        value: float32 (..., S, V).
        bias: float32, added to the scores (..., L, S), or None; -infinity hides a key. A query
            from which all keys are hidden gets 0.
        dropout: probability of leaving out a weight.
        scale: of the scores, ``1 / sqrt(E)`` if None.
        mappers: of the query-key and of the attention-value product.
    """
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    scores = matmul(query, key.transpose(-2, -1), mappers[0]) * scale
    if bias is not None:
        scores = scores + bias
    weights = torch.ops.aten._safe_softmax(scores, -1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return matmul(weights, value, mappers[1]), weights


class _Matmul(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, mapper: Mapper) -> Tensor:
        of_matrices = len(a), 1, 1
        mapped_a, mapped_b = mapper(a, Role.INPUT, of_matrices), mapper(b, Role.OTHER, of_matrices)
        save(ctx, mapped_a, mapped_b)
        ctx.mapper = mapper
        return mapper.backend(a).matmul(mapped_a, mapped_b)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b = restore(ctx)
        backend = ctx.mapper.backend(grad)
        mapped = ctx.mapper(grad, Role.GRADIENT, (len(grad), 1, 1))
        needs_a, needs_b = ctx.needs_input_grad[:2]
        return (
            backend.matmul(mapped, transposed(b)) if needs_a else None,
            backend.matmul(transposed(a), mapped) if needs_b else None,
            None,
        )


def transposed(x: FixedPoint) -> FixedPoint:
    """Rows and columns exchanged."""
    exponent = x.exponent.transpose(-2, -1) if x.exponent.dim() else x.exponent
    return x._replace(mantissa=x.mantissa.transpose(-2, -1), exponent=exponent)
