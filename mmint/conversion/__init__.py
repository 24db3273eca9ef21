"""Turning the layers of a model into integer layers, in place."""

from ..layers.base import DEFAULT_BITS
from .converting import convert
from .registered import keep_float, register_layer
from .report import Converted, format_report
from .restoring import restore

__all__ = [
    'DEFAULT_BITS',
    'Converted',
    'convert',
    'format_report',
    'keep_float',
    'register_layer',
    'restore',
]
