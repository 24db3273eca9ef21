"""Mean and variance of gradients over draws, parameter by parameter."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Gradients = dict[str, Tensor]


class Spread:
    """Gradients that were drawn, one after the other (Welford's recurrence).

    Attributes:
        count: how many were added.
        mean: of each parameter's gradients, float64.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Gradients = {}
        self._squares: dict[str, float] = {}

    def add(self, gradients: Gradients) -> None:
        """Adds one draw; all draws have the same parameters."""
        self.count += 1
        for name, gradient in gradients.items():
            gradient = gradient.to(torch.float64)
            mean = self.mean.setdefault(name, torch.zeros_like(gradient))
            step = gradient - mean
            mean += step / self.count
            square = float(torch.sum(step * (gradient - mean)))
            self._squares[name] = self._squares.get(name, 0.0) + square

    def variance(self, *names: str) -> float:
        """Of parameters together, summed over elements; unbiased, NaN for fewer than two draws."""
        if self.count < 2:
            return math.nan
        return sum(self._squares[name] for name in names or self.mean) / (self.count - 1)

    def bias(self, exact: Gradients, *names: str) -> float:
        """The square of the distance of the true mean from ``exact``, summed over elements.

        It is unbiased, so it may be negative where draws are too few to tell it from 0.
        """
        return sum(
            float((self.mean[name] - exact[name]).square().sum()) for name in names or self.mean
        ) - (self.variance(*names) / self.count)
