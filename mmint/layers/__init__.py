"""Integer layers: stock PyTorch layers whose products are computed in integers."""

from .base import IntLayer
from .conv import IntConv2d, IntConvTranspose2d
from .exact import CompactMaxPool2d, CompactReLU
from .linear import IntLinear

__all__ = [
    'CompactMaxPool2d',
    'CompactReLU',
    'IntConv2d',
    'IntConvTranspose2d',
    'IntLayer',
    'IntLinear',
]
