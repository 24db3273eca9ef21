"""What several mappings at once are told of one tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..numerics import NonFiniteError, RandomBits


class Mapping(NamedTuple):
    """One tensor's mapping, as of `Backend.quantize`.

    Attributes:
        x, bits, random, exponents: as there; every element counts for the exponents.
        not_finite: makes the error that names the tensor.
        turned: whether the mantissas are to be read with the first axis running fastest, as the
            input gradient of a convolution reads its weight. Not the values, only where they lie.
    """

    x: Tensor
    bits: int
    random: RandomBits | None
    exponents: tuple[int, ...]
    not_finite: Callable[[], NonFiniteError]
    turned: bool = False
