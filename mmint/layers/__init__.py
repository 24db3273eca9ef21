"""Integer layers: stock PyTorch layers whose arithmetic is done in integers."""

from .base import IntLayer
from .conv import (
    IntConv1d,
    IntConv2d,
    IntConv3d,
    IntConvTranspose1d,
    IntConvTranspose2d,
    IntConvTranspose3d,
)
from .linear import IntLinear
from .max_pooling import CompactMaxPool2d
from .norm import (
    IntBatchNorm,
    IntBatchNorm1d,
    IntBatchNorm2d,
    IntBatchNorm3d,
    IntFrozenBatchNorm2d,
    IntGroupNorm,
    IntInstanceNorm,
    IntInstanceNorm1d,
    IntInstanceNorm2d,
    IntInstanceNorm3d,
    IntLayerNorm,
    IntLayerNorm2d,
    IntSyncBatchNorm,
)
from .relu import CompactReLU, CompactReLU6
from .roi_align import IntRoIAlign

__all__ = [
    'CompactMaxPool2d',
    'CompactReLU',
    'CompactReLU6',
    'IntBatchNorm',
    'IntBatchNorm1d',
    'IntBatchNorm2d',
    'IntBatchNorm3d',
    'IntConv1d',
    'IntConv2d',
    'IntConv3d',
    'IntConvTranspose1d',
    'IntConvTranspose2d',
    'IntConvTranspose3d',
    'IntFrozenBatchNorm2d',
    'IntGroupNorm',
    'IntInstanceNorm',
    'IntInstanceNorm1d',
    'IntInstanceNorm2d',
    'IntInstanceNorm3d',
    'IntLayer',
    'IntLayerNorm',
    'IntLayerNorm2d',
    'IntLinear',
    'IntRoIAlign',
    'IntSyncBatchNorm',
]
