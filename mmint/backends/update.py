"""What a step of stochastic gradient descent is told of one parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..numerics import FixedPoint, NonFiniteError, RandomBits


class Update(NamedTuple):
    """One parameter's update.

    Attributes:
        param: float32, any shape; updated in place, after which its values lie on a ``bits``-wide
            grid.
        grad: float32, the shape of ``param``.
        momentum_buffer: of ``bits`` bits, updated in place; None in the first step, where the
            momentum is the gradient itself, and where ``momentum`` is 0.
        bits: width of the mantissas of parameter and momentum.
        lr: learning rate.
        momentum: momentum factor.
        weight_decay: weight decay (an L2 penalty).
        nesterov: whether the momentum is Nesterov's.
        random: names the random bits; its role is replaced by each of the update's own.
        not_finite: makes the error that names the parameter, if `errors.naming` does not.
    """

    param: Tensor
    grad: Tensor
    momentum_buffer: FixedPoint | None
    bits: int
    lr: float
    momentum: float
    weight_decay: float
    nesterov: bool
    random: RandomBits
    not_finite: Callable[[], NonFiniteError] = NonFiniteError
