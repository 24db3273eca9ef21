"""Mapping images plane by plane, as norms, pooling and depthwise convolutions read them."""

from __future__ import annotations

from torch import Tensor

from ..numerics import FixedPoint, Role
from .deferred import source_of
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
    size = *x.shape[:2], *([x.shape[2:].numel()] if x.dim() > 2 else [])
    if len(size) == 3 and mapper.backend(x).planes_last:
        size = *size, 1  # an image, which backends keep channels-last
    planes = source_of(x).reshape(size)
    mantissa, exponent, bits = mapper(planes, role, (*exponents, *[1] * (len(size) - 2)), top)
    if exponent.dim():
        exponent = exponent.view(*exponents, *[1] * (x.dim() - 2))
    return FixedPoint(mantissa.view(x.shape), exponent, bits)
