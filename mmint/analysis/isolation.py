"""The rounding of one kind of tensor alone, to see what it adds to the noise of the gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backends import watched
from ..layers import IntLayer
from ..layers.norm import IntNorm
from ..numerics import FixedPoint, RandomBits, Role
from ..numerics.fixed_point import MAX_BITS
from ..ops.scope import ForwardScope

# Of what is not looked at. Not 16, which some operations take whatever the width of their layer.
WIDE = 15
# What is told apart, by role, and in norms.
PARTS = 'input', 'weight', 'gradient', 'norm input', 'norm gradient'
_PART = {
    Role.INPUT: 'input',
    Role.OTHER: 'input',
    Role.WEIGHT: 'weight',
    Role.WEIGHT_OF_GRADIENT: 'weight',
    Role.GRADIENT: 'gradient',
}
Choice = Callable[[str, str], bool]


class Place(NamedTuple):
    """A layer, or a module whose own operations are integer.

    Attributes:
        owner: it, with the attributes ``bits`` and ``site``.
        bits: its own width.
    """

    owner: IntLayer | ForwardScope
    bits: int

    @property
    def name(self) -> str:
        """The module's, in the model."""
        return self.owner.site.name

    def part(self, role: Role) -> str:
        """Which of `PARTS` its tensor ``role`` is.

        Raises:
            NotImplementedError: if the role is of a kind that is not listed.
        """
        if role not in _PART:
            raise NotImplementedError(
                f'{self.name} maps a tensor of the role {role.name}, for which {__name__} has no '
                'part: add one to _PART'
            )
        return f'norm {_PART[role]}' if isinstance(self.owner, IntNorm) else _PART[role]


class Isolation:
    """A converted model, of which any tensors can be rounded alone.

    Attributes:
        places: where it computes in integers of fewer than `WIDE` bits, by the number in the name
            of random bits.
        rounding: the names of those that were seen to map a tensor, within `only`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.places: dict[int, Place] = {}
        self.rounding: set[str] = set()
        for module in model.modules():
            for owner in (module, module.__dict__.get('forward')):
                if not isinstance(owner, IntLayer | ForwardScope) or owner.bits is None:
                    continue
                if owner.bits < WIDE:
                    self.places[owner.site.number] = Place(owner, owner.bits)

    @contextmanager
    def only(self, chosen: Choice) -> Iterator[None]:
        """Within this context mantissas have `WIDE` bits, but ``chosen(name, part)`` their own.

        A chosen tensor is mapped to its own bits, with its own random bits, and these values to
        `WIDE` bits, which hold them exactly: what follows computes as if there were two widths.
        """

        def observer(
            name: str, operation: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            if name != 'quantize':
                return operation(*args, **kwargs)
            return self._quantize(chosen, operation, *args, **kwargs)

        names = {place.name for place in self.places.values()}
        with self.widened(names, WIDE), watched(observer):
            yield

    @contextmanager
    def widened(self, names: Collection[str], bits: int = MAX_BITS) -> Iterator[None]:
        """Within this context all that these places map has so many bits."""
        for place in self.places.values():
            if place.name in names:
                place.owner.bits = bits
        try:
            yield
        finally:
            for place in self.places.values():
                place.owner.bits = place.bits

    def _quantize(
        self,
        chosen: Choice,
        operation: Callable[..., FixedPoint],
        x: Tensor,
        bits: int,
        random: RandomBits | None,
        largest: int | Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> FixedPoint:
        place = self.places.get(-1 if random is None else random.layer)
        if random is not None and place is not None and bits == WIDE:
            self.rounding.add(place.name)
            if chosen(place.name, place.part(random.role)):
                x = _values(operation(x, place.bits, random, largest, *args, **kwargs))
                largest = None  # rounding up may have exceeded it
        return operation(x, bits, random, largest, *args, **kwargs)


def _values(x: FixedPoint) -> Tensor:
    """The float32 values, exact for mantissas of up to 24 bits."""
    exponent = x.exponent
    for axis, size in enumerate(exponent.shape):
        if size > 1:
            exponent = exponent.repeat_interleave(x.mantissa.shape[axis] // size, axis)
    return torch.ldexp(x.mantissa.to(torch.float32), exponent)
