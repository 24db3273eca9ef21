"""What all integer layers share: bits, a name, and a weight of the same bits all through a step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..backends import replays
from ..numerics import FREE, Role, check_bits, check_exponents
from ..ops import Mapper
from ..ops.exporting import cannot_be_exported, check_not_exported
from ..ops.run import Site, current_run
from ..ops.weights import Weights, map_weight
from .ahead import next_weights

DEFAULT_BITS = 8


class IntLayer(nn.Module):
    """Mixin of integer layers, in front of the stock layer whose parameters it uses.

    Attributes:
        bits: width of the mantissas of input, weight and gradient, 4..16; 8 unless given.
        exponents: ``'free'``, unless given, for one wherever it costs nothing (of batch norm, one
            a channel), or ``'tensor'`` for one a tensor.
        site: the name and number of this layer in error messages and random bits.
    """

    bits: int
    exponents: str
    site: Site

    def __init__(
        self, *args: Any, bits: int = DEFAULT_BITS, exponents: str = FREE, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.make_integer(bits, exponents)

    @classmethod
    def check(cls, module: nn.Module) -> None:
        """Raises ValueError if a stock layer's settings have no integer counterpart."""

    def make_integer(self, bits: int, exponents: str = FREE) -> None:
        """Sets the attributes that a stock layer lacks.

        Raises:
            ValueError: if ``bits`` is not in 4..16, ``exponents`` neither ``'free'`` nor
                ``'tensor'``, or as `check`.
        """
        self.check(self)
        self.bits, self.exponents = check_bits(bits), check_exponents(exponents)
        self.site = Site(type(self).__name__)
        self._mapped: tuple[tuple[Any, ...], Weights] | None = None

    def extra_repr(self) -> str:
        """The stock layer's own, and the number format."""
        one = '' if self.exponents == FREE else f', exponents={self.exponents!r}'
        return f'{super().extra_repr()}, bits={self.bits}{one}'

    def mapper(self) -> Mapper:
        """The mapper of one call of this layer."""
        call = current_run.next_call(self.site.number, Role.INPUT)
        return Mapper(self.site, self.bits, self.training, call, self.exponents)

    def mapped_weight(self, output_axis: int = 0, groups: int = 1) -> Weights:
        """The weight as of `map_weight`; in training, of the same bits all through an iteration."""
        weight: Any = self.weight  # once: it may be computed
        # In evaluation weights may be swapped in ways that leave no trace, as mmengine's EMA does.
        if not (self.training and current_run.has_iterations):
            self._mapped = None
            mapper = self.weight_mapper(current_run.next_call(self.site.number, Role.WEIGHT))
            return map_weight(weight, mapper, output_axis, groups)
        state = self.weight_state(weight)
        if self._mapped is None or self._mapped[0] != state:
            self._mapped = state, next_weights(self, weight, state, output_axis, groups)
        return self._mapped[1]

    def weight_mapper(self, call: int) -> Mapper:
        """The mapper of the weight in its call of this number."""
        return Mapper(self.site, self.bits, self.training, call, self.exponents)

    def weight_state(self, weight: Tensor) -> tuple[Any, ...]:
        """What the mapped weight depends on, in training and but for the call."""
        run = current_run
        return (
            weight._version,
            weight.data_ptr(),
            weight.device,
            run.moment(),
            self.bits,
            run.begun,  # a replay changes weights and leaves no other trace
            replays.capturing(),
            run.gradients_enabled(),
        )

    def check_input(self, x: Tensor, dims: tuple[int, ...], channel_dim: int, size: int) -> None:
        """Checks the input's device, number of dimensions and channels.

        Raises:
            RuntimeError: if the layer is being exported.
            ValueError: if ``x`` is not on the layer's device, has none of the numbers of
                dimensions ``dims`` (enough for ``channel_dim`` if there are none), or other than
                ``size`` channels.
        """
        check_not_exported(self.site.name, x)
        tensors = *self._parameters.values(), *self._buffers.values()
        own = next((t for t in tensors if t is not None), x)
        if x.device != own.device:
            raise ValueError(
                f'{self.site.name} was given an input on {x.device}, one on {own.device}, '
                'where the layer is, is accepted: move one of them with .to(device)'
            )
        least = -channel_dim if channel_dim < 0 else channel_dim + 1
        if (dims and x.dim() not in dims) or x.dim() < least:
            wanted = ' or '.join(map(str, dims)) or f'at least {least}'
            raise ValueError(
                f'{self.site.name} was given an input of shape {tuple(x.shape)}, one of {wanted} '
                'dimensions is accepted: reshape it'
            )
        if x.shape[channel_dim] != size:
            raise ValueError(
                f'{self.site.name} was given an input of shape {tuple(x.shape)}, {size} is '
                f'accepted in dimension {channel_dim}: check the layer before it'
            )

    def __prepare_scriptable__(self) -> None:
        """Called by `torch.jit.script`."""
        raise RuntimeError(cannot_be_exported(self.site.name))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_mapped': None}
