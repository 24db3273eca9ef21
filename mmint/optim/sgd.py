"""SGD in integer arithmetic: paper section 3.4."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..backends import NonFiniteError, Update, backend_for, replays
from ..numerics import FixedPoint, RandomBits, Role, check_bits, scalar
from ..ops.run import current_run

DEFAULT_BITS = 16
FIXED = 'momentum', 'weight_decay', 'nesterov', 'bits'  # in a captured step


class Capture(NamedTuple):
    """A step in a CUDA graph.

    Attributes:
        rates: for each device the words of `replays.Rate` of each group, (groups, 2).
        settings: what may not change, of each group.
        ahead: by how much the number of steps is ahead of the iteration.
    """

    rates: dict[torch.device, Tensor]
    settings: list[tuple[Any, ...]]
    ahead: int


class IntSGD(Optimizer):
    """`torch.optim.SGD` with weight, gradient and momentum in integers of ``bits`` bits.

    The learning rate, the momentum factor and the weight decay enter as fixed-point scalars of 16
    bits, every narrowing rounds stochastically, and the parameters stay float32 tensors whose
    values lie on a ``bits``-wide grid (`mmint.backends.reference.sgd` has the formula). All
    processes of a distributed run draw the same bits, so that their parameters stay equal.

    `state_dict` holds the momentum as `torch.optim.SGD` does, a float32 ``momentum_buffer``, so
    that either resumes from the other. Besides it holds what names random bits: the number of
    ``steps``, and the optimizer's ``number``.

    Args:
        params: float32 parameters, or parameter groups.
        lr: learning rate.
        momentum: momentum factor.
        weight_decay: weight decay (an L2 penalty).
        nesterov: whether the momentum is Nesterov's.
        bits: width of the mantissas, 4..16.

    Attributes:
        number: of this optimizer among those of the run, which draw different bits. Copies and
            resumed optimizers keep it.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        bits: int = DEFAULT_BITS,
    ) -> None:
        defaults = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, bits=bits
        )
        super().__init__(params, defaults)
        self.steps = 0
        self.number = current_run.next_optimizer()
        self.names: dict[Tensor, str] = {}
        self.capture: Capture | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As `torch.optim.Optimizer.add_param_group`.

        Raises:
            ValueError: if a setting of the group is out of its range.
        """
        settings = {**self.defaults, **param_group}
        check_bits(settings['bits'])
        for name in ('lr', 'momentum', 'weight_decay'):
            if not 0 <= settings[name] < math.inf:
                raise ValueError(
                    f'{name}={settings[name]} was given, values from 0 on, and finite, are accepted'
                )
        if settings['nesterov'] and not settings['momentum']:
            raise ValueError('nesterov=True was given without a momentum: set one above 0')
        super().add_param_group(param_group)

    def name_parameters(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Gives parameters the names under which errors report them."""
        self.names = {param: name for name, param in named}

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Updates every parameter that has a gradient.

        Captured in a CUDA graph, it does so at every replay, with the learning rate of the last
        `mmint.begin_replay`.

        Raises:
            RuntimeError: if a first step is captured, before there is a momentum.
            TypeError: if a parameter is not float32.
            NonFiniteError: if a parameter or a gradient is infinite or not a number; on a GPU, if
                that or any other tensor was since the last step, for which the device is waited.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if capturing := replays.capturing():
            self._begin_capture()
        updates: dict[torch.device, list[Update]] = {}
        number = -1
        for place, group in enumerate(self.param_groups):
            for param in group['params']:
                number += 1
                if param.grad is not None:
                    rate = group['lr']
                    if capturing and self.capture:
                        rate = replays.Rate(rate, self.capture.rates[param.device][place])
                    update = self._update(param, param.grad, group, rate, number)
                    updates.setdefault(param.device, []).append(update)
        for device, there in updates.items():
            momenta = backend_for(device).sgd_step(there)
            for update, momentum in zip(there, momenta, strict=True):
                torch.autograd.graph.increment_version(update.param)  # a kernel wrote it
                if momentum is not None:
                    self.state[update.param]['momentum_buffer'] = momentum
        if not capturing:
            self.steps += 1
            self.check()
        return loss

    def _devices(self) -> set[torch.device]:
        return {p.device for group in self.param_groups for p in group['params']}

    def _begin_capture(self) -> None:
        ahead, settings = replays.distance(self.steps), self._settings()
        if self.capture is not None and self.capture.settings == settings:
            rates = self.capture.rates  # which the graphs before read, too
        else:
            shape = len(self.param_groups), 2
            rates = {
                device: torch.empty(shape, dtype=torch.int64, device=device)
                for device in self._devices()
            }
        self.capture = Capture(rates, settings, ahead)
        current_run.captured.add(self)

    def _settings(self) -> list[tuple[Any, ...]]:
        return [tuple(group[name] for name in FIXED) for group in self.param_groups]

    def check(self) -> None:
        """Waits for the devices, and raises `NonFiniteError` if a tensor was not finite."""
        for device in self._devices():
            backend_for(device).check(device)

    def begin_replay(self, iteration: int) -> None:
        """Makes the next replay of captured steps that of ``iteration``; see `mmint.begin_replay`.

        Raises:
            RuntimeError: if settings other than learning rates changed since the capture.
        """
        if self.capture is None:
            return
        if self._settings() != self.capture.settings:
            raise RuntimeError(
                f'the settings {", ".join(FIXED)} of an optimizer or its groups changed after its '
                'step was captured in a CUDA graph, the same are accepted: capture it again'
            )
        words = torch.tensor([scalar(-group['lr']) for group in self.param_groups])
        for rates in self.capture.rates.values():
            rates.copy_(words)
        self.steps = self.capture.ahead + iteration + 1

    def _update(
        self, param: Tensor, grad: Tensor, group: dict[str, Any], rate: float, number: int
    ) -> Update:
        name = self.names.get(param, f'parameter {number}')
        if param.dtype != torch.float32:
            raise TypeError(
                f'{name} is of {param.dtype}, torch.float32 is accepted: convert the model with '
                '.float()'
            )
        held = self.state[param].get('momentum_buffer')
        if held is not None and held.bits != group['bits']:
            held = _to_fixed(_to_float(held), group['bits'])
        if group['momentum'] and held is None and replays.capturing():
            raise RuntimeError(
                f'the first step of {name} was captured in a CUDA graph, a later one is accepted, '
                'which has a momentum: call step() once before the capture'
            )
        return Update(
            param, grad, held, group['bits'], rate, group['momentum'], group['weight_decay'],
            group['nesterov'],
            RandomBits(current_run.seed, 0, number, self.steps, Role.SGD_PARAMETER, self.number),
            functools.partial(self._not_finite, name),
        )  # fmt: skip

    @staticmethod
    def _not_finite(name: str) -> NonFiniteError:
        return NonFiniteError(
            f'{name} or its gradient has infinite or NaN values in iteration '
            f'{current_run.iteration}, finite ones are accepted: lower the learning rate, or '
            'lengthen its warm-up'
        )

    def state_dict(self) -> dict[str, Any]:
        """As `torch.optim.SGD` has it, and what names random bits: ``steps`` and ``number``."""
        state_dict = super().state_dict()
        state_dict['state'] = {
            number: {key: _to_float(buffer) for key, buffer in state.items()}
            for number, state in state_dict['state'].items()
        }
        for group in state_dict['param_groups']:
            group['dampening'] = 0  # `torch.optim.SGD` asks for it
        return {**state_dict, 'steps': self.steps, 'number': self.number}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned, here or in `torch.optim.SGD`.

        Raises:
            RuntimeError: if a CUDA graph has a step, which would go on with the state before.
        """
        if self.capture is not None:
            raise RuntimeError(
                'a state was given to an optimizer whose step is captured in a CUDA graph, one '
                'that was never captured is accepted: load into a new optimizer, and capture that'
            )
        super().load_state_dict(state_dict)
        self.steps = state_dict.get('steps', 0)
        self.number = state_dict.get('number', self.number)
        for group in self.param_groups:
            group.setdefault('bits', self.defaults['bits'])
            for param in group['params']:
                buffer = self.state[param].pop('momentum_buffer', None)
                if buffer is not None:
                    self.state[param]['momentum_buffer'] = _to_fixed(buffer, group['bits'])

    def __getstate__(self) -> dict[str, Any]:
        own = dict(steps=self.steps, number=self.number, names=self.names, capture=None)
        return {**super().__getstate__(), **own}


def _to_fixed(buffer: Tensor, bits: int) -> FixedPoint:
    mapped = backend_for(buffer.device).quantize(buffer, bits, None)
    return mapped._replace(mantissa=mapped.mantissa.contiguous())


def _to_float(buffer: FixedPoint) -> Tensor:
    return backend_for(buffer.mantissa.device).dequantize(buffer.mantissa, buffer.exponent)
