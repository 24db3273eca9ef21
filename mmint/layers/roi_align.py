"""Integer RoIAlign."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..backends import RoISampling
from ..ops import roi_align
from ..ops.exporting import check_not_exported
from ..ops.interpolation import is_accepted
from ..ops.opaque import opaque
from .base import DEFAULT_BITS, IntLayer


class IntRoIAlign(IntLayer):
    """RoIAlign in integer arithmetic, of mmcv and of torchvision: forward and input gradient.

    Its mantissas have 16 bits, whatever ``bits`` says, for nothing is kept for the backward pass.

    Args:
        output_size: height and width of the results of a box.
        spatial_scale: pixels for each unit of a box's coordinates.
        sampling_ratio: samples for each result along an axis; one a pixel unless positive.
        aligned: whether coordinates count from pixels' corners.
        bits: as of other layers, for reports.
    """

    output_size: int | tuple[int, int]
    spatial_scale: float
    sampling_ratio: int
    aligned: bool

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        aligned: bool = True,
        bits: int = DEFAULT_BITS,
    ) -> None:
        nn.Module.__init__(self)
        self.output_size, self.spatial_scale = output_size, spatial_scale
        self.sampling_ratio, self.aligned = sampling_ratio, aligned
        self.make_integer(bits)

    @classmethod
    def check(cls, module: nn.Module) -> None:
        """See `IntLayer.check`; maxima of samples are float's."""
        pool_mode = getattr(module, 'pool_mode', 'avg')
        if pool_mode != 'avg':
            raise ValueError(
                f"pool_mode={pool_mode!r} was given to a {type(module).__name__}, 'avg' is "
                'accepted: exclude the layer from conversion, so that it stays in float'
            )
        if not is_accepted(_sampling(module)):
            raise ValueError(
                f'a {type(module).__name__} of {_settings(module)} was given, a positive size and '
                'scale and at most 2**20 samples along an axis are accepted: change them, or '
                'exclude the layer from conversion'
            )

    @opaque
    def forward(self, input: Tensor, rois: Tensor | list[Tensor]) -> Tensor:
        """RoIAlign of images (N, C, H, W).

        Args:
            rois: (K, 5), the number of an image, left, upper, right and lower; or a list of the
                last four of them for each image.

        Raises:
            ValueError: if ``input`` or ``rois`` has another shape.
        """
        check_not_exported(self.site.name, input)
        if not isinstance(rois, Tensor):
            rois = torch.cat([F.pad(boxes, (1, 0), value=i) for i, boxes in enumerate(rois)])
        if input.dim() != 4 or rois.dim() != 2 or rois.shape[1] != 5:
            raise ValueError(
                f'{self.site.name} was given an input of shape {tuple(input.shape)} and boxes of '
                f'shape {tuple(rois.shape)}, (N, C, H, W) and (K, 5) are accepted: reshape them'
            )
        return roi_align(input, rois, _sampling(self), self.mapper())

    def extra_repr(self) -> str:
        """The settings."""
        return f'{_settings(self)}, bits={self.bits}'


def _sampling(module: Any) -> RoISampling:
    height, width = _pair(module.output_size)
    ratio = max(0, module.sampling_ratio)
    return RoISampling((height, width), module.spatial_scale, ratio, module.aligned)


def _settings(module: nn.Module) -> str:
    names = 'output_size', 'spatial_scale', 'sampling_ratio', 'aligned'
    return ', '.join(f'{name}={getattr(module, name)}' for name in names)
