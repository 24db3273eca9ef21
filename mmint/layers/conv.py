"""Integer convolutions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..backends import Geometry
from ..ops import conv2d, conv_transpose2d
from ..ops.opaque import opaque
from .base import IntLayer


class IntConv2d(IntLayer, nn.Conv2d):
    """`torch.nn.Conv2d` in integer arithmetic: forward, input, weight and bias gradient.

    Takes the arguments of `torch.nn.Conv2d`, ``bits`` and ``exponents`` (`IntLayer`). Input and
    output are float32, (N, C, H, W) or (C, H, W).
    """

    stride: tuple[int, int]
    padding: str | tuple[int, int]
    dilation: tuple[int, int]

    @opaque
    def forward(self, x: Tensor) -> Tensor:
        """See `torch.nn.Conv2d`."""
        self.check_input(x, (3, 4), -3, self.in_channels)
        if x.dim() == 3:
            return self.forward(x[None])[0]
        padding = self.padding
        if self.padding_mode != 'zeros' or isinstance(padding, str):
            mode = 'constant' if self.padding_mode == 'zeros' else self.padding_mode
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
            padding = (0, 0)
        geometry = Geometry(self.stride, padding, self.dilation, self.groups)
        weight = self.mapped_weight((self.groups, 1, 1, 1))
        return conv2d(x, self.weight, weight, self.bias, geometry, self.mapper())


class IntConvTranspose2d(IntLayer, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` in integer arithmetic, as `IntConv2d`."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @opaque
    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """See `torch.nn.ConvTranspose2d`."""
        self.check_input(x, (3, 4), -3, self.in_channels)
        if x.dim() == 3:
            return self.forward(x[None], output_size)[0]
        stride, padding, kernel, dilation = map(
            list, (self.stride, self.padding, self.kernel_size, self.dilation)
        )
        height, width = self._output_padding(x, output_size, stride, padding, kernel, 2, dilation)
        geometry = Geometry(self.stride, self.padding, self.dilation, self.groups)
        return conv_transpose2d(
            x,
            self.weight,
            self.mapped_weight((self.groups, 1, 1, 1)),
            self.bias,
            geometry,
            (height, width),
            self.mapper(),
        )
