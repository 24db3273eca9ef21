"""Stochastic gradient descent in integers: paper section 3.4.

With parameter W and momentum V of ``bits`` bits, gradient G, and learning rate, momentum factor and
weight decay as scalars of 16 bits::

    V' = narrow(momentum * V + G + weight_decay * W)
    W' = narrow(W - lr * V')                       nesterov: lr * narrow(momentum * V' + G + ..)

W is first mapped to ``bits`` bits, which leaves one that lies on a grid as it is.

`narrow` makes of a sum mantissas of ``bits`` bits with a shared exponent, rounded stochastically.
The exponent follows from a bound of the sum, the sum of its terms' largest magnitudes, so that
nothing is clipped and no element needs to be known before. At that exponent each term is an integer
with 32 fraction bits (below which it is cut); their sum is rounded to nearest at 16 fraction bits,
and these are rounded with 16 random bits, which is the only draw. The expectation is that of the
exact sum to 2**-17 + 3 * 2**-32 units, below 2**-16.

A mantissa has 15 bits at most, so that int64 holds the sums; a kernel may keep them in two words of
32 bits, the upper with 16 fraction bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...numerics import FixedPoint, RandomBits, Role, mantissa_dtype, scalar
from ...numerics.float32 import fields, split_sign
from ..errors import naming
from ..update import Update
from .mapping import dequantize, quantize, shared_exponent

SUM_FRACTION_BITS = 32  # of the terms of a sum
BOUND_BITS = 40  # to which the largest terms are aligned


class Term(NamedTuple):
    """One of a sum: ``integers * 2**exponent``, none of which has a magnitude above ``largest``."""

    integers: Tensor
    exponent: int | Tensor  # of all, or of each
    largest: int
    largest_exponent: int


class Narrowed(NamedTuple):
    """Mantissas, the exponent they share, and what no magnitude of theirs exceeds."""

    mantissa: Tensor
    exponent: int
    largest: int


def sgd_step(updates: Sequence[Update]) -> list[FixedPoint | None]:
    """As `Backend.sgd_step`."""
    for update in updates:
        with naming(update.not_finite):
            for x in (update.param, update.grad):
                shared_exponent(split_sign(x)[1], update.bits)
    return [_step(update) for update in updates]


def _step(update: Update) -> FixedPoint | None:
    def draws(role: Role) -> RandomBits:
        return update.random._replace(role=role)

    bits, grad = update.bits, _gradient(update.grad)
    mapped = quantize(update.param, bits, draws(Role.SGD_PARAMETER))
    param = Narrowed(
        mapped.mantissa.to(torch.int64),
        int(mapped.exponent),
        _bound_of_mapped(update.param, int(mapped.exponent)),
    )
    terms = [grad, _scaled(param, update.weight_decay)]
    momentum = update.momentum_buffer
    if momentum is not None:
        terms.append(_scaled(_widened(momentum), update.momentum))
    new = _narrow(terms, bits, draws(Role.SGD_MOMENTUM))
    direction = new
    if update.nesterov:
        terms = [grad, _scaled(param, update.weight_decay), _scaled(new, update.momentum)]
        direction = _narrow(terms, bits, draws(Role.SGD_NESTEROV))
    terms = [_scaled(param, 1.0), _scaled(direction, -update.lr)]
    stepped = _narrow(terms, bits, draws(Role.SGD_UPDATE))
    update.param.copy_(dequantize(stepped.mantissa, stepped.exponent))
    if not update.momentum:
        return None
    if momentum is None:
        momentum = FixedPoint(
            torch.empty_like(new.mantissa, dtype=mantissa_dtype(bits)),
            torch.empty((), dtype=torch.int32, device=new.mantissa.device),
            bits,
        )
    momentum.mantissa.copy_(new.mantissa)
    momentum.exponent.fill_(new.exponent)
    return momentum


def _gradient(grad: Tensor) -> Term:
    negative, magnitude = split_sign(grad)
    field, mantissa24 = fields(magnitude)
    top_field, top = fields(magnitude.max() if grad.numel() else torch.tensor(0))
    integers = torch.where(negative, -mantissa24, mantissa24)
    return Term(integers, field.clamp(min=1) - 150, int(top), max(int(top_field), 1) - 150)


def _bound_of_mapped(x: Tensor, exponent: int) -> int:
    """The largest magnitude of ``x`` in units of ``2**exponent``, rounded up."""
    top = _gradient(x)
    return -(-top.largest >> exponent - top.largest_exponent)


def _widened(x: FixedPoint) -> Narrowed:
    mantissa = x.mantissa.to(torch.int64)
    largest = int(mantissa.abs().max()) if mantissa.numel() else 0
    return Narrowed(mantissa, int(x.exponent), largest)


def _scaled(x: Narrowed, factor: float) -> Term:
    mantissa, exponent = scalar(factor)
    exponent += x.exponent
    return Term(x.mantissa * mantissa, exponent, x.largest * abs(mantissa), exponent)


def _bound(terms: list[Term]) -> tuple[int, int]:
    """What no sum exceeds, as integer and exponent: of the terms' largest magnitudes, rounded up.

    They are aligned so that the largest has `BOUND_BITS` bits.
    """
    tops = [(t.largest, t.largest_exponent) for t in terms if t.largest]
    if not tops:
        return 0, 0
    common = max(top.bit_length() + exponent for top, exponent in tops) - BOUND_BITS
    aligned = [
        top << exponent - common if exponent >= common else -(-top >> common - exponent)
        for top, exponent in tops
    ]
    return sum(aligned), common


def _narrow(terms: list[Term], bits: int, random: RandomBits) -> Narrowed:
    p = bits - 1
    bound, common = _bound(terms)
    shift = max(bound.bit_length() - p, 0)
    if bound > ((1 << p) - 1) << shift:
        shift += 1
    exponent = common + shift
    total = torch.zeros_like(terms[0].integers)
    for term in terms:
        if term.largest:
            total += _shifted(term.integers, term.exponent, exponent - SUM_FRACTION_BITS)
    drawn = random.draw(total.numel(), total.device).view(total.shape)
    half = 1 << (SUM_FRACTION_BITS - 17)
    mantissa = (((total + half) >> 16) + drawn) >> 16
    return Narrowed(mantissa, exponent, -(-bound >> shift))


def _shifted(integers: Tensor, exponent: int | Tensor, common: int) -> Tensor:
    """``integers * 2**exponent`` in units of ``2**common``; what is below is cut.

    A gradient, whose elements have exponents of their own, is cut towards zero, products are
    rounded down.
    """
    if isinstance(exponent, int):
        left = exponent - common
        return integers << left if left >= 0 else integers >> min(-left, 63)
    up, down = (exponent - common).clamp(min=0), (common - exponent).clamp(0, 63)
    cut = (integers.abs() << up) >> down
    return integers.sign() * cut
