"""Attention, as one PyTorch function or as heads with their projections."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..matmul import attention
from ..operands import is_empty, is_float
from ..registry import Scope, integer
from .products import integer_linear


@integer(F.scaled_dot_product_attention)
def _attention(
    scope: Scope,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if not is_float(query, key, value) or (is_causal and attn_mask is not None):
        return NotImplemented
    if is_empty(query, key, value):
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


@integer(F.multi_head_attention_forward)
def _multi_head_attention(
    scope: Scope,
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
    if unusual or not is_float(query, key, value) or is_empty(query, key, value):
        return NotImplemented
    weights: tuple[Tensor | None, ...] = (q_proj_weight, k_proj_weight, v_proj_weight)
    if in_proj_weight is not None and not use_separate_proj_weight:
        weights = in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    length, images, width = query.shape
    query, key, value = (  # (N, heads, length, E / heads)
        integer_linear(scope, x, w, b).view(len(x), images, num_heads, -1).permute(1, 2, 0, 3)
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
    out = integer_linear(scope, out, out_proj_weight, out_proj_bias)
    if not need_weights:
        return out, None
    return out, attended.mean(1) if average_attn_weights else attended
