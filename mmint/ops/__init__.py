"""Differentiable operations in integer arithmetic: forward, input gradient, weight gradient."""

from .conv import conv2d, conv_transpose2d
from .linear import linear
from .mapper import Mapper

__all__ = ['Mapper', 'conv2d', 'conv_transpose2d', 'linear']
