"""The decode head of DeepLab V1 and V2, which mmsegmentation lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn


class SummedConv2d(nn.ModuleList):
    """Parallel 3x3 convolutions of several dilations, (N, C, H, W) to (N, K, H, W), summed."""

    def __init__(self, in_channels: int, out_channels: int, dilations: Sequence[int]) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=d, dilation=d) for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        total, *others = (conv(x) for conv in self)
        for other in others:
            total = total + other
        return total


@MODELS.register_module()
class DeepLabHead(BaseDecodeHead):
    """Dilated convolutions that classify each pixel, summed (Chen et al., TPAMI 2018).

    Args:
        in_channels: channels of the backbone's last output.
        dilations: (12,) is LargeFOV, as in DeepLab V1; (6, 12, 18, 24) is ASPP-L of DeepLab V2.
        **kwargs: as for mmseg's `BaseDecodeHead`, without ``channels``.
    """

    def __init__(self, in_channels: int, dilations: Sequence[int], **kwargs: Any) -> None:
        super().__init__(in_channels, channels=in_channels, **kwargs)
        self.conv_seg = SummedConv2d(in_channels, self.out_channels, dilations)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits (N, classes, H, W)."""
        return self.cls_seg(self._transform_inputs(inputs))
