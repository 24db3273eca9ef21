"""Integer convolutions."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..backends import Geometry
from ..ops import conv, conv_transpose
from ..ops.opaque import opaque
from .base import IntLayer


class _IntConv(IntLayer):
    """A convolution of as many axes as its kernel."""

    in_channels: int
    kernel_size: Any  # of ints, one an axis, as the others
    stride: Any
    padding: Any
    dilation: Any
    groups: int
    padding_mode: Any
    weight: Any
    bias: Any
    _reversed_padding_repeated_twice: Any

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """See the stock layer."""
        axes = len(self.kernel_size)
        self.check_input(x, (axes + 1, axes + 2), -axes - 1, self.in_channels)
        if x.dim() == axes + 1:
            return self.forward(x[None])[0]
        padding = self.padding
        if self.padding_mode != 'zeros' or isinstance(padding, str):
            mode = 'constant' if self.padding_mode == 'zeros' else self.padding_mode
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
            padding = (0,) * axes
        geometry = Geometry(self.stride, padding, self.dilation, self.groups)
        weight = self.mapped_weight(groups=self.groups)
        return conv(x, self.weight, weight, self.bias, geometry, self.mapper())


class _IntConvTranspose(_IntConv):
    """A transposed convolution of as many axes as its kernel."""

    _output_padding: Any

    @opaque
    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """See the stock layer."""
        axes = len(self.kernel_size)
        self.check_input(x, (axes + 1, axes + 2), -axes - 1, self.in_channels)
        if x.dim() == axes + 1:
            return self.forward(x[None], output_size)[0]
        stride, padding, kernel, dilation = map(
            list, (self.stride, self.padding, self.kernel_size, self.dilation)
        )
        output_padding = self._output_padding(
            x, output_size, stride, padding, kernel, axes, dilation
        )
        geometry = Geometry(self.stride, self.padding, self.dilation, self.groups)
        return conv_transpose(
            x,
            self.weight,
            self.mapped_weight(1, self.groups),
            self.bias,
            geometry,
            output_padding,
            self.mapper(),
        )


class IntConv1d(_IntConv, nn.Conv1d):
    """`torch.nn.Conv1d` in integer arithmetic, as `IntConv2d`, of (N, C, L) or (C, L)."""


class IntConv2d(_IntConv, nn.Conv2d):
    """`torch.nn.Conv2d` in integer arithmetic: forward, input, weight and bias gradient.

    Takes the arguments of `torch.nn.Conv2d`, ``bits`` and ``exponents`` (`IntLayer`). Input and
    output are float32, (N, C, H, W) or (C, H, W).
    """


class IntConv3d(_IntConv, nn.Conv3d):
    """`torch.nn.Conv3d` in integer arithmetic, as `IntConv2d`, of (N, C, D, H, W) or (C, D, H, W).

    Sums over depth are integer sums too, rounded once.
    """


class IntConvTranspose1d(_IntConvTranspose, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` in integer arithmetic, as `IntConv1d`."""


class IntConvTranspose2d(_IntConvTranspose, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` in integer arithmetic, as `IntConv2d`."""


class IntConvTranspose3d(_IntConvTranspose, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` in integer arithmetic, as `IntConv3d`."""
