"""The definition: every integer operation in plain PyTorch, exact, short and slow.

Sums of products are carried by float64 where a bound shows that they stay below 2**53, so that
every step is an exact integer; all else is int64. Other backends must give the same bits.
"""

from ..errors import check
from .activation import relu, relu_grad, relu_passed
from .addition import add
from .interpolation import resize, resize_grad, roi_align, roi_align_grad
from .mapping import dequantize, quantize
from .max_pooling import max_pool2d, max_pool2d_grad
from .norms import (
    batch_norm,
    batch_norm_grad,
    batch_norm_grad_source,
    batch_norm_source,
    frozen_norm,
    frozen_norm_grad,
    frozen_norm_grad_source,
    frozen_norm_source,
    frozen_norm_weight_grad,
    group_norm,
    group_norm_grad,
    group_norm_grad_source,
    group_norm_source,
    layer_norm,
    layer_norm_grad,
    plane_products,
    plane_sums,
    update_running,
)
from .pooling import avg_pool2d, avg_pool2d_grad
from .products import (
    channel_sum,
    conv2d,
    conv2d_input_grad,
    conv2d_weight_grad,
    matmul,
)
from .sgd import sgd_step
from .source import elements

name = 'reference'
planes_last = False
quantize_all = None

__all__ = [
    'add',
    'avg_pool2d',
    'avg_pool2d_grad',
    'batch_norm',
    'batch_norm_grad',
    'batch_norm_grad_source',
    'batch_norm_source',
    'channel_sum',
    'check',
    'conv2d',
    'conv2d_input_grad',
    'conv2d_weight_grad',
    'dequantize',
    'elements',
    'frozen_norm',
    'frozen_norm_grad',
    'frozen_norm_grad_source',
    'frozen_norm_source',
    'frozen_norm_weight_grad',
    'group_norm',
    'group_norm_grad',
    'group_norm_grad_source',
    'group_norm_source',
    'layer_norm',
    'layer_norm_grad',
    'matmul',
    'max_pool2d',
    'max_pool2d_grad',
    'name',
    'plane_products',
    'plane_sums',
    'planes_last',
    'quantize',
    'quantize_all',
    'relu',
    'relu_grad',
    'relu_passed',
    'resize',
    'resize_grad',
    'roi_align',
    'roi_align_grad',
    'sgd_step',
    'update_running',
]
