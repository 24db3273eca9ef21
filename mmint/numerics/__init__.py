"""The number format and the random bits: what every other part of mmint relies on."""

from .fixed_point import FREE, FixedPoint, check_bits, check_exponents, mantissa_dtype
from .float32 import NonFiniteError
from .random_bits import RandomBits, Role
from .scalars import scalar

__all__ = [
    'FREE',
    'FixedPoint',
    'NonFiniteError',
    'RandomBits',
    'Role',
    'check_bits',
    'check_exponents',
    'mantissa_dtype',
    'scalar',
]
