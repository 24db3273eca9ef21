"""Differentiable operations in integer arithmetic: forward, input gradient, weight gradient."""

from . import stock  # noqa: F401
from .conv import conv, conv_transpose
from .interpolation import resize, roi_align
from .linear import linear
from .mapper import Mapper
from .norm import batch_norm, frozen_norm, group_norm, instance_norm, layer_norm
from .run import begin_iteration, begin_replay

__all__ = [
    'Mapper',
    'batch_norm',
    'begin_iteration',
    'begin_replay',
    'conv',
    'conv_transpose',
    'frozen_norm',
    'group_norm',
    'instance_norm',
    'layer_norm',
    'linear',
    'resize',
    'roi_align',
]
