"""Mapping images plane by plane, as norms, pooling and depthwise convolutions read them."""

from __future__ import annotations

from torch import Tensor

from ..numerics import FixedPoint, Role
from .mapper import Mapper


def map_planes(
    x: Tensor,
    role: Role,
    mapper: Mapper,
    exponents: tuple[int, int] = (1, 1),
    top: int | Tensor | None = None,
) -> FixedPoint:
    """Maps ``x`` (N, C, ...), laid out in memory as the backend reads planes.

    That is plane after plane, or channels-last where the backend says so by ``planes_last``.

    Args:
        exponents: how many along images and channels, where they are free.
        top: as for `Mapper`.
    """
    planes = x if x.dim() == 2 else x.flatten(2)
    if planes.dim() == 3 and mapper.backend(x).planes_last:
        planes = planes.unsqueeze(3)  # an image, which backends keep channels-last
    mantissa, exponent, bits = mapper(planes, role, (*exponents, *[1] * (planes.dim() - 2)), top)
    if exponent.dim():
        exponent = exponent.view(*exponents, *[1] * (x.dim() - 2))
    return FixedPoint(mantissa.view(x.shape), exponent, bits)
