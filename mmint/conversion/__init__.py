"""Turning the layers of a model into integer layers, in place."""

from ..layers.base import DEFAULT_BITS
from .converting import convert
from .registered import register_bits, register_layer, register_recomputation
from .report import Converted, format_report
from .restoring import restore

__all__ = [
    'DEFAULT_BITS',
    'Converted',
    'convert',
    'format_report',
    'register_bits',
    'register_layer',
    'register_recomputation',
    'restore',
]
