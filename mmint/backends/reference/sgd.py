"""Stochastic gradient descent in integers: paper section 3.4.

With weight W, gradient G and momentum V of ``bits`` bits, learning rate, momentum factor and
weight decay as scalars of 16 bits::

    u  = momentum * V + G + weight_decay * W         wide, at a common exponent
    V' = narrow(u)
    W' = narrow(W - lr * V')                         nesterov: lr * narrow(momentum * V' + G + ..)

`narrow` is the linear mapping once more, from wide integers: one shared exponent, stochastic
rounding, nothing clipped. The products are below 2**30 and are shifted left by at most 28 bits when
they are aligned, so that int64 holds every sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits, Role, mantissa_dtype, scalar
from ...numerics.integers import bit_length, shift_right_stochastic
from .mapping import dequantize, quantize

MAX_ALIGNMENT = 28
Integers = tuple[Tensor, int]  # int64 integers and their exponent


def sgd_step(
    param: Tensor,
    grad: Tensor,
    momentum_buffer: FixedPoint | None,
    bits: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    random: RandomBits,
) -> FixedPoint:
    """As `Backend.sgd_step`."""

    def draws(role: Role) -> RandomBits:
        return random._replace(role=role)

    g = _wide(quantize(grad, bits, draws(Role.SGD_GRADIENT)))
    w = _wide(quantize(param, bits, draws(Role.SGD_PARAMETER)))
    terms = [g, _scaled(w, weight_decay)]
    if momentum_buffer is not None:
        terms.append(_scaled(_wide(momentum_buffer), momentum))
    u = _add(terms, draws(Role.SGD_DIRECTION_SUM))
    buffer = _narrow(u, bits, draws(Role.SGD_MOMENTUM))
    direction = buffer
    if nesterov:
        terms = [g, _scaled(w, weight_decay), _scaled(_wide(buffer), momentum)]
        direction = _narrow(
            _add(terms, draws(Role.SGD_NESTEROV_SUM)), bits, draws(Role.SGD_NESTEROV)
        )
    stepped = _add([w, _scaled(_wide(direction), -lr)], draws(Role.SGD_UPDATE_SUM))
    updated = _narrow(stepped, bits, draws(Role.SGD_UPDATE))
    param.copy_(dequantize(updated.mantissa, updated.exponent))
    return buffer


def _wide(x: FixedPoint) -> Integers:
    return x.mantissa.to(torch.int64), int(x.exponent)


def _scaled(x: Integers, factor: float) -> Integers:
    mantissa, exponent = scalar(factor)
    return x[0] * mantissa, x[1] + exponent


def _add(terms: list[Integers], random: RandomBits) -> Integers:
    """The sum at the lowest exponent that needs no left shift by more than `MAX_ALIGNMENT` bits.

    A term below that exponent is rounded to it, stochastically. Terms that are zero do not count.
    """
    terms = [t for t in terms if t[0].any()] or terms[:1]
    exponents = [exponent for _, exponent in terms]
    common = max(min(exponents), max(exponents) - MAX_ALIGNMENT)
    drawn = None
    total = torch.zeros_like(terms[0][0])
    for mantissa, exponent in terms:
        shift = common - exponent
        if shift > 0:
            if drawn is None:
                drawn = random.draw(mantissa.numel(), mantissa.device).view(mantissa.shape)
            total += shift_right_stochastic(mantissa, torch.tensor(shift), drawn)
        else:
            total += mantissa << -shift
    return total, common


def _narrow(x: Integers, bits: int, random: RandomBits) -> FixedPoint:
    """Maps wide integers to ``bits`` bits as `quantize` maps floats: unbiased, nothing clipped."""
    p = bits - 1
    wide, exponent = x
    largest = wide.abs().max() if wide.numel() else torch.tensor(0)
    shift = int(bit_length(largest)) - p
    if shift > 0 and largest > ((1 << p) - 1) << shift:
        shift += 1
    exponent = exponent + shift if largest else 0
    drawn = random.draw(wide.numel(), wide.device).view(wide.shape)
    rounded = shift_right_stochastic(wide, torch.tensor(shift), drawn)
    mantissa = rounded.to(mantissa_dtype(bits))
    return FixedPoint(mantissa, torch.tensor(exponent, dtype=torch.int32, device=wide.device), bits)
