"""The integer operations in C: SIMD, threads, and the bits of `mmint.backends.reference`.

Mantissas of images and filters (int8, four dimensions) are kept channels-last in memory, planes
where channels are filtered or normalised on their own. Kernels that write what the next layer maps
note its largest magnitude (`mmint.backends.magnitudes`). The instruction set is the best that the
machine has; the environment variable ``MMINT_CPU_LEVEL`` names another, read at the first use.
"""

from ..errors import check
from .activation import relu, relu_grad
from .addition import add
from .interpolation import resize, resize_grad, roi_align, roi_align_grad
from .layer_norm import layer_norm, layer_norm_grad
from .library import available, level, levels, use_level
from .mapping import channel_sum, dequantize, quantize
from .max_pooling import max_pool2d, max_pool2d_grad
from .norm import (
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
    plane_products,
    plane_sums,
    update_running,
)
from .pooling import avg_pool2d, avg_pool2d_grad
from .products import conv2d, conv2d_input_grad, conv2d_weight_grad, matmul
from .sgd import sgd_step
from .source import elements, relu_passed

name = 'cpu'
planes_last = False
quantize_all = None

__all__ = [
    'add',
    'available',
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
    'level',
    'levels',
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
    'use_level',
]
