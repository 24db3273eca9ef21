"""The bias of a product, added as an integer at the exponent of the product's sums."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..backends.errors import naming
from ..numerics import Role
from .mapper import Mapper


def add_bias(product: Callable[..., Tensor], bias: Tensor | None, mapper: Mapper) -> Tensor:
    """Calls ``product``, with the bias and its random bits where there is one."""
    if bias is None:
        return product()
    if bias.dtype != torch.float32:
        raise TypeError(
            f'{mapper.site.name} was given a bias of {bias.dtype}, torch.float32 is accepted: '
            'convert the model with .float()'
        )
    with naming(lambda: mapper.not_finite(Role.BIAS)):
        return product(bias=bias.detach(), random=mapper.random(Role.BIAS))
