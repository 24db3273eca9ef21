"""Products of matrices, and linear layers that are called as functions."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...numerics import Role
from ..fork import use
from ..linear import linear
from ..matmul import matmul
from ..operands import is_empty, is_float
from ..registry import Scope, integer
from ..weights import map_weight
from .arithmetic import sum_of


@integer(Tensor.matmul, torch.matmul)
def _matmul(scope: Scope, input: Any, other: Any, *, out: Tensor | None = None) -> Any:
    """Of matrices, or of matrices and a vector."""
    if not is_float(input, other) or max(input.dim(), other.dim()) < 2 or out is not None:
        return NotImplemented
    if 0 in (input.dim(), other.dim()) or is_empty(input, other):
        return NotImplemented
    if input.shape[-1] != other.shape[-2 if other.dim() > 1 else 0]:
        return NotImplemented
    if input.dim() == 1:
        return matmul(input[None], other, scope.mapper()).squeeze(-2)
    if other.dim() == 1:
        return matmul(input, other[:, None], scope.mapper()).squeeze(-1)
    return matmul(input, other, scope.mapper())


@integer(Tensor.bmm, torch.bmm, Tensor.mm, torch.mm)
def _mm(scope: Scope, input: Any, mat2: Any, *, out: Tensor | None = None) -> Any:
    return _matmul(scope, input, mat2, out=out)


@integer(Tensor.addmm, torch.addmm, Tensor.baddbmm, torch.baddbmm)
def _addmm(
    scope: Scope,
    input: Any,
    mat1: Any,
    mat2: Any,
    *,
    beta: float = 1,
    alpha: float = 1,
    out: Tensor | None = None,
) -> Any:
    """A product and a sum; in float where the sum is none of activations."""
    if alpha != 1 or beta != 1 or not is_float(input, mat1, mat2):
        return NotImplemented
    sizes = zip(reversed(input.shape), (mat2.shape[-1], mat1.shape[-2]), strict=False)
    if any(size not in (1, of_product) for size, of_product in sizes):
        return NotImplemented
    product = _matmul(scope, mat1, mat2, out=out)
    if product is NotImplemented:
        return NotImplemented
    total = sum_of(scope, input, product)
    return input + product if total is NotImplemented else total


@integer(torch.einsum)
def _einsum(scope: Scope, equation: Any, *operands: Any) -> Any:
    """Sums over what two operands share, such as ``bqc,bchw->bqhw``."""
    if len(operands) == 1:
        operands = tuple(operands[0])
    if len(operands) != 2 or not is_float(*operands) or not isinstance(equation, str):
        return NotImplemented
    if is_empty(*operands):
        return NotImplemented
    inputs, _, result = equation.replace(' ', '').partition('->')
    left, _, right = inputs.partition(',')
    shared = [i for i in left if i in right]
    batch, summed = [i for i in shared if i in result], [i for i in shared if i not in result]
    rows, columns = ([i for i in indices if i not in shared] for indices in (left, right))
    order = batch + rows + columns
    unusual = any(len({*indices}) != len(indices) for indices in (left, right))
    if unusual or not summed or sorted(order) != sorted(result):
        return NotImplemented
    sizes = [
        dict(zip(left, operands[0].shape, strict=True)),
        dict(zip(right, operands[1].shape, strict=True)),
    ]
    if any(sizes[0][i] != sizes[1][i] for i in shared):  # one is broadcast
        return NotImplemented
    size = sizes[0] | sizes[1]
    mapper = scope.mapper()

    def matrices(x: Tensor, indices: str, role: Role, *groups: list[str]) -> Tensor:
        in_order = use(x, mapper, role).permute([indices.index(i) for g in groups for i in g])
        return in_order.reshape([math.prod(size[i] for i in g) for g in groups])

    product = matmul(
        matrices(operands[0], left, Role.GRADIENT_SUM, batch, rows, summed),
        matrices(operands[1], right, Role.OTHER_GRADIENT_SUM, batch, summed, columns),
        mapper,
    )
    return product.view([size[i] for i in order]).permute([order.index(i) for i in result])


@integer(F.linear)
def integer_linear(scope: Scope, input: Any, weight: Any, bias: Any = None) -> Any:
    """What attention with its projections calls too."""
    if not is_float(input, weight) or weight.dim() != 2 or input.shape[-1] != weight.shape[1]:
        return NotImplemented
    mapper = scope.mapper()
    return linear(input, weight, map_weight(weight, mapper), bias, mapper)
