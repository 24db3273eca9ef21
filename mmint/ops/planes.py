"""Mapping images plane by plane, as norms and pooling read them."""

from __future__ import annotations

from torch import Tensor

from ..numerics import FixedPoint, Role
from .mapper import Mapper


def map_planes(
    x: Tensor, role: Role, mapper: Mapper, top: int | Tensor | None = None
) -> FixedPoint:
    """Maps ``x`` (N, C, ...), laid out in memory as the backend's norms and pooling read it.

    That is plane after plane, or channels-last where the backend says so by ``planes_last``.
    """
    planes = x if x.dim() == 2 else x.flatten(2)
    if planes.dim() == 3 and mapper.backend(x).planes_last:
        planes = planes.unsqueeze(3)  # an image, which backends keep channels-last
    mapped = mapper(planes, role, top)
    return mapped._replace(mantissa=mapped.mantissa.view(x.shape))
