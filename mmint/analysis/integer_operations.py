"""What a call of a backend function costs in multiply-adds.

A product of K terms is K multiply-adds; an element-wise operation and a sum are one an element. The
rules are those of `float_operations`, so that a model costs the same in integers as in float:

* convolution, linear, matmul: the products of their shapes. A bias costs nothing forward, where the
  sums begin with it, and backward an addition for each element of the incoming gradient.
* norm: an element costs one for its part in the statistics and one for its normalisation, so two in
  training and one with frozen statistics; likewise backward, for the sums and the input gradient.
  What is done once a channel or a group costs nothing.
* addition: one an element. Pooling and resizing: one an element of the larger side. RoIAlign: one
  a result.
* optimizer: what PyTorch's SGD executes for an element: weight decay 1, momentum 2, Nesterov 1, and
  the step 1.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from .float_operations import overlap

# The arguments of a call by name, what it returned (``out``), and the autograd node (``node``).
Call = SimpleNamespace
Rule = Callable[[Call], tuple[str, int]]  # kind and multiply-adds


def rule_for(name: str) -> tuple[Rule, str] | None:
    """The rule of a backend's operation and 'integer' or 'float'; None if it has no multiply-adds.

    Raises:
        NotImplementedError: if there is none.
    """
    if name in NO_MULTIPLY_ADDS:
        return None
    if name in INTEGER:
        return INTEGER[name], 'integer'
    if name in FLOAT:
        return FLOAT[name], 'float'
    raise NotImplementedError(
        f'backends have the operation {name}, for which {__name__} has no rule: '
        'add one to INTEGER, or the name to NO_MULTIPLY_ADDS if it needs none'
    )


def bind(function: Callable[..., Any], args: tuple, kwargs: dict[str, Any], out: Any) -> Call:
    """What the rules read."""
    bound = _signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    node = torch._C._current_autograd_node()
    return Call(**bound.arguments, out=out, node='' if node is None else node.name())


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _each(kind: str, name: str, times: int = 1) -> Rule:
    """So many multiply-adds for each element of an argument, or of ``out``."""

    def rule(call: Call) -> tuple[str, int]:
        argument = getattr(call, name)
        return kind, times * getattr(argument, 'mantissa', argument).numel()

    return rule


def _conv2d(call: Call) -> tuple[str, int]:
    return 'convolution', call.out.numel() * call.weight.mantissa[0].numel()


def _conv2d_input_grad(call: Call) -> tuple[str, int]:
    return 'convolution', call.grad.mantissa.numel() * call.weight.mantissa[0].numel()


def _conv2d_weight_grad(call: Call) -> tuple[str, int]:
    return 'convolution', call.grad.mantissa.numel() * math.prod(call.weight_size[1:])


def _matmul(call: Call) -> tuple[str, int]:
    kind = 'linear' if call.a.mantissa.dim() == 2 else 'matmul'
    return kind, call.out.numel() * call.a.mantissa.shape[-1]


def _channel_sum(call: Call) -> tuple[str, int]:
    mantissa = call.grad.mantissa
    if 'Norm' in call.node:  # the bias gradient of a frozen norm: counted with its other sums
        return 'norm', 0
    if '_Add' in call.node:  # the gradient of what is broadcast: in float it has no kind
        return 'addition', 0
    return 'linear' if mantissa.dim() == 2 else 'convolution', mantissa.numel()


def _sgd_step(call: Call) -> tuple[str, int]:
    total = 0
    for update in call.updates:
        momentum = update.momentum != 0 and update.momentum_buffer is not None
        operations = 1 + (update.weight_decay != 0) + 2 * momentum + update.nesterov
        total += update.param.numel() * operations
    return 'optimizer', total


def _max_pool2d_grad(call: Call) -> tuple[str, int]:
    added = overlap(call.pooling.kernel, call.pooling.stride)
    return 'pooling', call.grad.numel() if added else 0


def _resize(name: str) -> Rule:
    def rule(call: Call) -> tuple[str, int]:
        return 'interpolation', max(call.out.numel(), getattr(call, name).mantissa.numel())

    return rule


INTEGER: dict[str, Rule] = {
    'conv2d': _conv2d,
    'conv2d_input_grad': _conv2d_input_grad,
    'conv2d_weight_grad': _conv2d_weight_grad,
    'matmul': _matmul,
    'channel_sum': _channel_sum,
    'plane_sums': _each('norm', 'x'),
    'plane_products': _each('norm', 'x'),
    'batch_norm': _each('norm', 'x'),
    'batch_norm_source': _each('norm', 'x'),
    'batch_norm_grad': _each('norm', 'x'),
    'batch_norm_grad_source': _each('norm', 'x'),
    'frozen_norm': _each('norm', 'x'),
    'frozen_norm_source': _each('norm', 'x'),
    'frozen_norm_grad': _each('norm', 'grad'),
    'frozen_norm_grad_source': _each('norm', 'grad'),
    'group_norm': _each('norm', 'x'),
    'group_norm_source': _each('norm', 'x'),
    'group_norm_grad_source': _each('norm', 'x'),
    'group_norm_grad': _each('norm', 'x'),
    'layer_norm': _each('norm', 'x', 2),
    'layer_norm_grad': _each('norm', 'x', 2),
    'add': _each('addition', 'x'),
    'avg_pool2d': _each('pooling', 'x'),
    'avg_pool2d_grad': _each('pooling', 'out'),
    'roi_align': _each('interpolation', 'out'),
    'roi_align_grad': _each('interpolation', 'grad'),
    'resize': _resize('x'),
    'resize_grad': _resize('grad'),
    'sgd_step': _sgd_step,
}

# The gradients of overlapping windows are added in float32.
FLOAT: dict[str, Rule] = {'max_pool2d_grad': _max_pool2d_grad}

# The mapping, what compares and moves, what is done once a channel, what is no arithmetic.
NO_MULTIPLY_ADDS = frozenset(
    """
    quantize dequantize elements relu relu_grad relu_passed max_pool2d
    frozen_norm_weight_grad update_running check
    """.split()
)
