"""Integer linear layers."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import linear
from ..ops.opaque import opaque
from .base import IntLayer


class IntLinear(IntLayer, nn.Linear):
    """`torch.nn.Linear` in integer arithmetic: forward, input, weight and bias gradient.

    Takes the arguments of `torch.nn.Linear`, ``bits`` and ``exponents`` (`IntLayer`). Input and
    output are float32, (..., in_features) and (..., out_features).
    """

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.Linear`."""
        self.check_input(x, (), -1, self.in_features)
        return linear(x, self.weight, self.mapped_weight(), self.bias, self.mapper())
