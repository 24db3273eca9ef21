"""The definition: every integer operation in plain PyTorch, exact, short and slow.

Sums of products are carried by float64 where a bound shows that they stay below 2**53, so that
every step is an exact integer; all else is int64. Other backends must give the same bits.
"""

from .exact import max_pool2d, max_pool2d_grad, relu, relu_grad
from .mapping import dequantize, quantize
from .products import (
    channel_sum,
    conv2d,
    conv2d_input_grad,
    conv2d_weight_grad,
    matmul,
)
from .sgd import sgd_step

name = 'reference'

__all__ = [
    'channel_sum',
    'conv2d',
    'conv2d_input_grad',
    'conv2d_weight_grad',
    'dequantize',
    'matmul',
    'max_pool2d',
    'max_pool2d_grad',
    'name',
    'quantize',
    'relu',
    'relu_grad',
    'sgd_step',
]
