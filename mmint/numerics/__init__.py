"""The number format and the random bits: what every other part of mmint relies on."""

from .fixed_point import FixedPoint, check_bits, mantissa_dtype
from .float32 import NonFiniteError
from .random_bits import RandomBits, Role
from .run import Run, Site, current_run
from .scalars import scalar

__all__ = [
    'FixedPoint',
    'NonFiniteError',
    'RandomBits',
    'Role',
    'Run',
    'Site',
    'check_bits',
    'current_run',
    'mantissa_dtype',
    'scalar',
]
