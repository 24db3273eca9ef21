"""Mapping one layer's tensors: which bits, which backend, whose name in an error."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..backends import Backend, Mapping, NonFiniteError, backend_for, replays
from ..backends.errors import naming
from ..backends.source import Unwritten
from ..numerics import FREE, FixedPoint, RandomBits, Role
from .deferred import Deferred, source_of, written
from .run import Moment, Site, current_run

# Of additions: they keep nothing for a backward pass, so that wide mantissas cost no memory.
SUM_BITS = 16
LEAST_SHARING = 32  # elements of a sum that share an exponent: a group of random bits
GRADIENTS = frozenset(
    {
        Role.GRADIENT,
        Role.GRADIENT_SUM,
        Role.OTHER_GRADIENT_SUM,
        Role.WEIGHT_GRADIENT_SUM,
        Role.BIAS_GRADIENT_SUM,
    }
)


@dataclass(frozen=True)
class Mapper:
    """Maps the tensors of one call of a layer.

    Attributes:
        site: the layer.
        bits: width of the mantissas.
        stochastic: how input, weight and bias are rounded: stochastically (training) or to nearest
            (evaluation). A gradient is always rounded stochastically.
        call: the number of this call of the layer within the iteration.
        moment: of the forward pass, whenever the backward pass runs.
        exponents: whether tensors have several exponents where that is free, or one each.
        captured: whether the call is in a CUDA graph, and happens in the iterations of its replays.
    """

    site: Site
    bits: int
    stochastic: bool
    call: int
    exponents: str = FREE
    moment: Moment = field(default_factory=current_run.moment)
    captured: bool = field(default_factory=replays.capturing)

    def __call__(
        self,
        x: Tensor | Unwritten,
        role: Role,
        exponents: tuple[int, ...] = (),
        top: int | Tensor | None = None,
    ) -> FixedPoint:
        """Maps float32 ``x``, or what makes its elements, to fixed point.

        Args:
            exponents: the shape that they have where they are free, as in `Backend.quantize`.
            top: ``largest`` of `Backend.quantize`.

        Raises:
            TypeError: if ``x`` is not float32.
            NonFiniteError: if an element is infinite or not a number.
        """
        source = source_of(x) if isinstance(x, Tensor) else x
        bits, random, exponents, not_finite = self._told(x, role, exponents)
        with naming(not_finite):
            return self.backend(x).quantize(source, bits, random, top, exponents)

    def mapping(
        self, x: Tensor, role: Role, exponents: tuple[int, ...] = (), turned: bool = False
    ) -> Mapping:
        """What a backend is told to map ``x``; see `Mapping` for ``turned``.

        Raises:
            TypeError: if ``x`` is not float32.
        """
        return Mapping(written(x), *self._told(x, role, exponents), turned)

    def _told(
        self, x: Tensor | Unwritten, role: Role, exponents: tuple[int, ...]
    ) -> tuple[int, RandomBits | None, tuple[int, ...], Callable[[], NonFiniteError]]:
        if x.dtype != torch.float32:
            raise TypeError(
                f'{self.site.name} was given {_article(role)} of {x.dtype}, torch.float32 is '
                'accepted: convert it with .float(), and train without --amp or autocast'
            )
        if self.exponents != FREE or math.prod(exponents) == 1:
            exponents = ()
        return self.bits, self.random(role), exponents, functools.partial(self.not_finite, role)

    def add(self, x: Tensor, y: Tensor, role: Role, inplace: bool = False) -> Tensor:
        """The integer sum of float32 ``x`` and ``y``, of one shape; in place, it replaces ``x``.

        Raises:
            NonFiniteError: if an element is infinite or not a number.
        """
        with naming(lambda: self.not_finite(role)):
            exponents = exponents_of_sum(x.shape) if self.exponents == FREE else ()
            terms = source_of(x), source_of(y), SUM_BITS, self.random(role), exponents
            if inplace and isinstance(x, Deferred) and not isinstance(terms[0], Tensor):
                return x.replace(self.backend(x).add(*terms))
            return self.backend(x).add(*terms, inplace)

    def backend(self, x: Tensor | Unwritten) -> Backend:
        """The backend for the device of ``x``."""
        return backend_for(x.device)

    def random(self, role: Role) -> RandomBits | None:
        """The name of the bits that round tensor ``role``, None to round to nearest."""
        if self.stochastic or role in GRADIENTS:
            return self.site.random_bits(role, self.call, self.moment)
        return None

    def not_finite(self, role: Role) -> NonFiniteError:
        """The error for an infinity or NaN in tensor ``role``."""
        role = Role.GRADIENT if role in GRADIENTS else role
        role = Role.WEIGHT if role is Role.WEIGHT_OF_GRADIENT else role
        iteration = current_run.iteration if self.captured else self.moment.iteration
        return NonFiniteError(
            f'{self.site.name} was given {_article(role)} with infinite or NaN values in iteration '
            f'{iteration}, finite ones are accepted: check the images and annotations '
            'of this iteration, then the learning rate and its warm-up'
        )


def along_axis(x: Tensor, axis: int, count: int) -> tuple[int, ...]:
    """The shape of ``count`` exponents along an axis of ``x``."""
    return tuple(count if i == axis else 1 for i in range(x.dim()))


def exponents_of_sum(size: torch.Size) -> tuple[int, ...]:
    """The shape of a sum's exponents: one for each index of the first two axes, planes of images.

    Of one axis, or none, where fewer than `LEAST_SHARING` elements would share one: tokens are rows
    of the first two axes, or of one.
    """
    for axes in (2, 1):
        if math.prod(size[axes:]) >= LEAST_SHARING and math.prod(size[:axes]) > 1:
            return (*size[:axes], *[1] * (len(size) - axes))
    return ()


def _article(role: Role) -> str:
    name = role.name.lower()
    return f'an {name}' if name[0] in 'aeiou' else f'a {name}'
