"""The PyTorch functions that become integer inside of converted modules, and when they do.

Each of `INTEGER` takes the `mmint.ops.scope.ForwardScope` of the module that calls it and the
arguments of the PyTorch function, and returns NotImplemented for what stays float.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..backends import Geometry, Windows
from ..numerics import Role
from .addition import add
from .conv import conv2d
from .fork import use
from .linear import linear
from .matmul import attention, matmul
from .pooling import adaptive_windows, avg_pool2d, fixed_windows, max_windows, most_windows

if TYPE_CHECKING:
    from .scope import ForwardScope

COORDINATES = 4  # tokens with no more features are points or boxes


def _is_empty(*tensors: Tensor) -> bool:
    """Whether there is nothing to compute, and PyTorch may find the shape of that."""
    return any(t.numel() == 0 for t in tensors)


def _is_float(*tensors: Any) -> bool:
    return all(isinstance(t, Tensor) and t.dtype == torch.float32 for t in tensors)


def _is_activation(x: Any) -> bool:
    """Whether ``x`` is float32, no vector, and no box."""
    return _is_float(x) and x.dim() >= 2 and (x.dim() > 3 or x.shape[-1] > COORDINATES)


def _add(
    scope: ForwardScope,
    input: Any,
    other: Any,
    *,
    alpha: float = 1,
    out: Tensor | None = None,
    inplace: bool = False,
) -> Any:
    if not (_is_activation(input) and _is_activation(other)) or input.shape != other.shape:
        return NotImplemented
    if alpha != 1 or out is not None:
        return NotImplemented
    if isinstance(input, nn.Parameter) or isinstance(other, nn.Parameter):
        return NotImplemented  # it is broadcast, and so in float, unless the batch is one image
    return add(input, other, scope.mapper(), inplace)


def _matmul(scope: ForwardScope, input: Any, other: Any, *, out: Tensor | None = None) -> Any:
    if not _is_float(input, other) or min(input.dim(), other.dim()) < 2 or out is not None:
        return NotImplemented
    if input.shape[-1] != other.shape[-2] or _is_empty(input, other):
        return NotImplemented
    return matmul(input, other, scope.mapper())


def _bmm(scope: ForwardScope, input: Any, mat2: Any, *, out: Tensor | None = None) -> Any:
    return _matmul(scope, input, mat2, out=out)


def _einsum(scope: ForwardScope, equation: Any, *operands: Any) -> Any:
    """Sums over what two operands share, such as ``bqc,bchw->bqhw``."""
    if len(operands) == 1:
        operands = tuple(operands[0])
    if len(operands) != 2 or not _is_float(*operands) or not isinstance(equation, str):
        return NotImplemented
    if _is_empty(*operands):
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


def _linear(scope: ForwardScope, input: Any, weight: Any, bias: Any = None) -> Any:
    if not _is_float(input, weight) or weight.dim() != 2 or input.shape[-1] != weight.shape[1]:
        return NotImplemented
    mapper = scope.mapper()
    return linear(input, weight, mapper(weight, Role.WEIGHT), bias, mapper)


def _conv2d(
    scope: ForwardScope,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """What a subclass of `torch.nn.Conv2d` calls, or a head that computes its weights."""
    if not _is_float(input, weight) or input.dim() != 4 or isinstance(padding, str):
        return NotImplemented
    if input.shape[1] != weight.shape[1] * groups:
        return NotImplemented
    geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation), groups)
    mapper = scope.mapper()
    return conv2d(input, weight, mapper(weight, Role.WEIGHT), bias, geometry, mapper)


def _getitem(scope: ForwardScope, input: Tensor, index: Any) -> Any:
    """``qkv[0], qkv[1], qkv[2]``: their gradients are stacked, where PyTorch adds them to zeros."""
    if not isinstance(index, int) or input.dim() != 5 or len(input) != 3:
        return NotImplemented
    if not (input.requires_grad and torch.is_grad_enabled() and input._is_view()):
        return NotImplemented
    version, parts = getattr(input, '_mmint_parts', (None, ()))
    if version != input._version:
        parts = _Unstack.apply(input)
        input._mmint_parts = input._version, parts
    return parts[index]


class _Unstack(torch.autograd.Function):
    """`torch.unbind` whose results may be written in place, as those of an index may."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.data for part in x.unbind())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.stack(grads)


def _attention(
    scope: ForwardScope,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if not _is_float(query, key, value) or (is_causal and attn_mask is not None):
        return NotImplemented
    if _is_empty(query, key, value):
        return NotImplemented
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    if is_causal:
        shape = query.shape[-2], key.shape[-2]
        attn_mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
    hidden = None if attn_mask is None or attn_mask.dtype != torch.bool else ~attn_mask
    mask = attn_mask if hidden is None else _mask(hidden)
    mappers = scope.mapper(), scope.mapper()
    return attention(query, key, value, mask, dropout_p, scale, mappers)[0]


def _mask(hidden: Tensor) -> Tensor:
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, float('-inf'))


def _multi_head_attention(
    scope: ForwardScope,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """Of (L, N, E) query and (S, N, E) key and value; what few models use stays in float."""
    unusual = bias_k is not None or bias_v is not None or add_zero_attn
    unusual |= static_k is not None or static_v is not None or query.dim() != 3
    unusual |= is_causal and attn_mask is None
    if unusual or not _is_float(query, key, value) or _is_empty(query, key, value):
        return NotImplemented
    weights = q_proj_weight, k_proj_weight, v_proj_weight
    if not use_separate_proj_weight:
        weights = in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    length, images, width = query.shape
    query, key, value = (  # (N, heads, length, E / heads)
        _linear(scope, x, w, b).view(len(x), images, num_heads, -1).permute(1, 2, 0, 3)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    mask = None
    for hides in (attn_mask, key_padding_mask):
        if hides is None:
            continue
        one = _mask(hides) if hides.dtype == torch.bool else hides
        if hides is key_padding_mask:
            one = one[:, None, None]
        elif one.dim() == 3:
            one = one.view(images, num_heads, *one.shape[1:])
        mask = one if mask is None else mask + one
    mappers = scope.mapper(), scope.mapper()
    dropout = dropout_p if training else 0.0
    out, attended = attention(query, key, value, mask, dropout, None, mappers)
    out = out.permute(2, 0, 1, 3).reshape(length, images, width)
    out = _linear(scope, out, out_proj_weight, out_proj_bias)
    if not need_weights:
        return out, None
    return out, attended.mean(1) if average_attn_weights else attended


def _avg_pool2d(
    scope: ForwardScope,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    if not _is_float(input) or input.dim() != 4:
        return NotImplemented
    kernel, padding = _pair(kernel_size), _pair(padding)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        return NotImplemented
    if divisor_override is not None and divisor_override < kernel[0] * kernel[1]:
        return NotImplemented
    windows = fixed_windows(
        tuple(input.shape[2:]),
        kernel,
        _pair(stride) if stride else kernel,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )
    return _average(scope, input, windows)


def _adaptive_avg_pool2d(scope: ForwardScope, input: Any, output_size: Any) -> Any:
    if not _is_float(input) or input.dim() != 4:
        return NotImplemented
    size = tuple(input.shape[2:])
    count = tuple(n if c is None else c for c, n in zip(_pair(output_size), size, strict=True))
    return _average(scope, input, adaptive_windows(size, count))


def _mean(
    scope: ForwardScope, input: Any, dim: Any = None, keepdim: bool = False, **others: Any
) -> Any:
    """Of the pixels of images."""
    if not _is_float(input) or input.dim() != 4 or others or not isinstance(dim, (list, tuple)):
        return NotImplemented
    if {d % 4 for d in dim} != {2, 3}:
        return NotImplemented
    mean = _average(scope, input, adaptive_windows(tuple(input.shape[2:]), (1, 1)))
    return mean if keepdim or mean is NotImplemented else mean.flatten(1)


def _average(scope: ForwardScope, input: Tensor, windows: Windows) -> Any:
    """Means over ``windows``, if there are any, and few enough share an element."""
    if not windows.rows or not windows.columns or 0 in input.shape[2:]:
        return NotImplemented
    if most_windows(windows) > max_windows(scope.bits):
        return NotImplemented
    return avg_pool2d(input, windows, scope.mapper())


def _branching(function: Callable) -> Callable:
    """``function`` as it is, in float or exact; but a residual branch may begin at its operands."""

    def branching(scope: ForwardScope, *args: Any, **kwargs: Any) -> Any:
        used = [use(x, scope.mapper()) if _is_activation(x) else x for x in args]
        return function(*used, **kwargs)

    return branching


INTEGER: dict[Callable, Callable] = {
    Tensor.add: _add,
    torch.add: _add,
    Tensor.add_: partial(_add, inplace=True),
    Tensor.matmul: _matmul,
    torch.matmul: _matmul,
    Tensor.bmm: _bmm,
    torch.bmm: _bmm,
    torch.einsum: _einsum,
    F.linear: _linear,
    F.conv2d: _conv2d,
    Tensor.__getitem__: _getitem,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head_attention,
    F.avg_pool2d: _avg_pool2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    Tensor.mean: _mean,
    torch.mean: _mean,
    **{
        function: _branching(function)
        for function in (F.interpolate, Tensor.mul, torch.mul, Tensor.sigmoid, torch.sigmoid)
    },
}
