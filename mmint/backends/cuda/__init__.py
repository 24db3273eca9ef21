"""The integer operations in CUDA C, with the bits of `mmint.backends.reference`.

Kernels are compiled when they are first used (`compiler`) and launched through a small interface
(`launcher`), on PyTorch's current stream, with buffers from PyTorch's allocator. Nothing waits for
the device: exponents stay there, and a value that is not finite is noted there, until `check`,
called once an iteration, reports it. Float32 results are contiguous; mantissas of images and of
filters are channels-last.
"""

from .activation import relu, relu_grad
from .addition import add
from .finite import check
from .interpolation import resize, resize_grad, roi_align, roi_align_grad
from .layer_norm import layer_norm, layer_norm_grad
from .mapping import channel_sum, dequantize, quantize, quantize_all
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

name = 'cuda'
planes_last = True

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
