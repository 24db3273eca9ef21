"""The layer classes of OpenMMLab's packages that `convert` treats as the stock layers."""

from __future__ import annotations

from mmengine.model import BaseModel
from torch import nn

from ...conversion import keep_float, register_layer
from ...layers import (
    IntConv2d,
    IntConv3d,
    IntConvTranspose2d,
    IntConvTranspose3d,
    IntFrozenBatchNorm2d,
    IntLayerNorm2d,
    IntLinear,
)

# mmcv's wrappers only add empty batches, for versions of PyTorch that lacked them.
LAYERS: dict[str, type[nn.Module]] = {
    'mmcv.cnn.bricks.wrappers.Conv2d': IntConv2d,
    'mmcv.cnn.bricks.wrappers.Conv3d': IntConv3d,
    'mmcv.cnn.bricks.wrappers.ConvTranspose2d': IntConvTranspose2d,
    'mmcv.cnn.bricks.wrappers.ConvTranspose3d': IntConvTranspose3d,
    'mmcv.cnn.bricks.wrappers.Linear': IntLinear,
    'mmdet.models.layers.brick_wrappers.FrozenBatchNorm2d': IntFrozenBatchNorm2d,
    'mmpretrain.models.utils.norm.LayerNorm2d': IntLayerNorm2d,
}


def convert_mm_layers() -> None:
    """Registers `LAYERS`, and leaves the losses and the box coding of models in float."""
    for stock, integer in LAYERS.items():
        register_layer(stock, integer)
    keep_float(BaseModel)
