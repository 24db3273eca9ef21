"""What PyTorch's operators do: exact, or float arithmetic of some kind, and how much of it.

An operator that is not known as exact counts as arithmetic. Convolutions and matrix products count
by their shapes, norms once or twice an element (`integer_operations` has the rules), fused
attention as the two products forward and the five backward that it executes, every other operator
one an element.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

# The kinds of operation that the integer share is about.
KINDS = (
    'convolution', 'linear', 'matmul', 'norm', 'addition', 'pooling', 'interpolation', 'optimizer',
)  # fmt: skip

# Compare, move, copy, convert, create. Views are known without a list.
EXACT = frozenset(
    """
    relu threshold_backward hardtanh hardtanh_backward relu6 max_pool2d_with_indices
    adaptive_max_pool2d max min amax amin argmax argmin aminmax maximum minimum fmax fmin clamp
    clamp_min clamp_max abs neg sign sgn eq ne lt le gt ge isnan isinf isfinite equal where
    logical_and logical_or logical_not logical_xor any all nonzero sort argsort topk kthvalue unique
    unique2 unique_dim unique_consecutive searchsorted bucketize nms

    cat stack clone copy contiguous to_copy lift_fresh lift_fresh_copy fill zero masked_fill
    masked_select masked_scatter index index_select index_fill index_copy take gather scatter
    embedding unsafe_index unsafe_view select_scatter slice_scatter select_backward slice_backward
    value_selecting_reduction_backward constant_pad_nd reflection_pad1d reflection_pad2d
    replication_pad2d flip roll repeat tril triu diag_embed pixel_shuffle pixel_unshuffle
    channel_shuffle im2col upsample_nearest2d upsample_nearest_exact2d resize set
    local_scalar_dense foreach_copy foreach_zero

    empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like new_zeros ones
    ones_like new_ones full full_like new_full scalar_tensor arange linspace eye rand rand_like
    randn randn_like randperm randint uniform normal bernoulli
    """.split()
)
PRODUCTS = {
    'mm': 'linear', 'addmm': 'linear', 'mv': 'linear', 'addmv': 'linear', 'dot': 'linear',
    'bmm': 'matmul', 'baddbmm': 'matmul', 'addbmm': 'matmul',
}  # fmt: skip
# Operators that work on fewer elements than their largest tensor has: the argument whose elements
# they work on, or None for those of the result.
SIZED_BY = {
    'index_put': 2, 'index_put_impl': 2, 'unsafe_index_put': 2, 'scatter_add': 3, 'index_add': 3,
    'embedding_dense_backward': 0, 'roi_align_backward': 0, 'roi_align': None,
    'max_pool2d_with_indices_backward': 0, 'grid_sampler_2d': None,
}  # fmt: skip


def name_of(operator: Any) -> str:
    """The operator's name without namespace, overload, and the marks of in-place and private."""
    return operator._schema.name.split('::')[-1].strip('_')


def is_exact(operator: Any, args: Sequence[Any], out: Any) -> bool:
    """Whether a call does no float arithmetic."""
    name = name_of(operator)
    if operator.is_view or name in EXACT or operator.namespace in ('profiler', 'prim'):
        return True
    if name in ('index_put', 'index_put_impl', 'unsafe_index_put'):
        accumulate = args[3] if len(args) > 3 else False
        return not accumulate
    if name == 'max_pool2d_with_indices_backward':
        return not overlap(args[2], args[3])
    return not any(t.is_floating_point() for t in _tensors((args, out)))


def overlap(kernel: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether pooling windows share elements; an empty stride is the kernel's size."""
    return any(k > s for k, s in zip(kernel, stride or kernel, strict=True))


def kind_of(operator: Any) -> str | None:
    """The kind of an operator that has one wherever it is used."""
    name = name_of(operator)
    if 'convolution' in name or 'deform_conv2d' in name:
        return 'convolution'
    if 'scaled_dot_product' in name:
        return 'matmul'
    if re.search('(batch|group|layer)_norm', name):
        return 'norm'
    return PRODUCTS.get(name)


def elements(operator: Any, args: Sequence[Any], out: Any) -> int:
    """How many elements a call works on: of its largest tensor, or `SIZED_BY`."""
    name = name_of(operator)
    if name in SIZED_BY:
        sized_by = SIZED_BY[name]
        return (out if sized_by is None else args[sized_by]).numel()
    if name.startswith(('foreach', 'fused')):
        return sum(t.numel() for t in args[0])
    return max(t.numel() for t in _tensors((args, out)))


def multiply_adds(operator: Any, args: Sequence[Any], out: Any) -> int:
    """The multiply-adds of a call."""
    name = name_of(operator)
    if name == 'convolution':
        x, weight, transposed = args[0], args[1], args[6]
        return (x if transposed else out).numel() * weight[0].numel()
    if name == 'convolution_backward':
        grad, x, weight, transposed, (wants_x, wants_weight, wants_bias) = (
            args[i] for i in (0, 1, 2, 7, 10)
        )
        product = (x if transposed else grad).numel() * weight[0].numel()
        return (wants_x + wants_weight) * product + wants_bias * grad.numel()
    if name == 'deform_conv2d':
        return out.numel() * args[1][0].numel()
    if name == 'deform_conv2d_backward':
        return 2 * args[0].numel() * args[2][0].numel()
    if name in PRODUCTS:
        factor = [a for a in args if isinstance(a, Tensor)][-2]
        return out.numel() * factor.shape[-1]
    if 'scaled_dot_product' in name:
        # Forward: scores, values. Backward: the scores again, and two gradients of each.
        if 'backward' in name:
            grad, query, key = args[:3]
            return (3 * query.numel() + 2 * grad.numel()) * key.shape[-2]
        query, key = args[:2]
        return (query.numel() + out[0].numel()) * key.shape[-2]
    if kind_of(operator) == 'norm':
        return _norm_passes(name, args) * args[0].numel()
    return elements(operator, args, out)


def _norm_passes(name: str, args: Sequence[Any]) -> int:
    """Statistics or sums, and normalisation or input gradient: how many of the two."""
    if name in ('native_batch_norm', 'cudnn_batch_norm', 'native_batch_norm_legit'):
        trains = args[5]
        return 1 + bool(trains)
    if name == 'native_batch_norm_backward':
        trains, (wants_x, wants_weight, _) = args[7], args[9]
        return wants_x + (trains or wants_weight)
    if name in ('batch_norm_stats', 'batch_norm_elemt'):
        return 1
    if name in ('batch_norm_backward_reduce', 'batch_norm_backward_elemt'):
        return 1
    return 2


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
