"""The layer classes of OpenMMLab's packages that `convert` treats as the stock layers."""

from __future__ import annotations

from mmengine.model import BaseModel
from torch import nn

from ...conversion import keep_float, register_layer
from ...layers import (
    IntBatchNorm,
    IntConv2d,
    IntConvTranspose2d,
    IntLayerNorm2d,
    IntLinear,
    IntSyncBatchNorm,
)

# mmcv's wrappers only add empty batches; the norms of mmengine compute what PyTorch's do.
LAYERS: dict[str, type[nn.Module]] = {
    'mmcv.cnn.bricks.wrappers.Conv2d': IntConv2d,
    'mmcv.cnn.bricks.wrappers.ConvTranspose2d': IntConvTranspose2d,
    'mmcv.cnn.bricks.wrappers.Linear': IntLinear,
    'mmengine.model.utils._BatchNormXd': IntBatchNorm,
    'mmengine.utils.dl_utils.parrots_wrapper.SyncBatchNorm': IntSyncBatchNorm,
    'mmpretrain.models.utils.norm.LayerNorm2d': IntLayerNorm2d,
}


def convert_mm_layers() -> None:
    """Registers `LAYERS`, and leaves the losses and the box coding of models in float."""
    for stock, integer in LAYERS.items():
        register_layer(stock, integer)
    keep_float(BaseModel)
