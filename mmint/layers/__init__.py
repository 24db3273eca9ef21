"""Integer layers: stock PyTorch layers whose products are computed in integers."""

from .base import IntLayer
from .conv import IntConv2d, IntConvTranspose2d
from .linear import IntLinear

__all__ = ['IntConv2d', 'IntConvTranspose2d', 'IntLayer', 'IntLinear']
