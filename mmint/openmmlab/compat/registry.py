"""Making mmint known to OpenMMLab: registries, mmcv's own layer classes, config paths."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.model import BaseModel
from mmengine.model.utils import _BatchNormXd
from mmengine.registry import MODELS, OPTIMIZERS
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm

from ... import layers
from ...conversion import FLOAT_FORWARD, INTEGER_LAYERS
from ...layers import (
    IntBatchNorm,
    IntBatchNorm2d,
    IntConv2d,
    IntConvTranspose2d,
    IntLayerNorm,
    IntLayerNorm2d,
    IntLinear,
    IntSyncBatchNorm,
)
from ...optim import IntSGD


class IntGroupNorm(layers.IntGroupNorm):
    """`mmint.layers.IntGroupNorm` as ``norm_cfg`` builds norms: the number of channels first."""

    def __init__(self, num_channels: int, num_groups: int, **kwargs: Any) -> None:
        super().__init__(num_groups, num_channels, **kwargs)


def register() -> None:
    """Registers everything in mmengine's root registries, which every scope falls back on."""
    from .. import engine  # noqa: F401  its classes register themselves

    products = IntConv2d, IntConvTranspose2d, IntLinear
    norms = IntBatchNorm2d, IntSyncBatchNorm, IntGroupNorm, IntLayerNorm
    for layer in (*products, *norms):
        MODELS.register_module(module=layer, force=True)
    OPTIMIZERS.register_module(module=IntSGD, force=True)
    FLOAT_FORWARD.add(BaseModel)
    MODULE2PACKAGE['mmint'] = 'mmint'
    try:
        version(MODULE2PACKAGE['mmseg'])
    except PackageNotFoundError:  # the maintained fork's distribution has another name
        MODULE2PACKAGE['mmseg'] = 'mmseg'


def convert_mm_norms() -> None:
    """Lets `convert` treat the norms of mmengine and mmpretrain as the stock layers."""
    INTEGER_LAYERS[SyncBatchNorm] = IntSyncBatchNorm
    INTEGER_LAYERS[_BatchNormXd] = IntBatchNorm
    INTEGER_LAYERS['mmpretrain.models.utils.norm.LayerNorm2d'] = IntLayerNorm2d


def convert_mmcv_layers() -> None:
    """Lets `convert` treat mmcv's wrappers, which only add empty batches, as the stock layers."""
    from mmcv.cnn.bricks import wrappers

    INTEGER_LAYERS[wrappers.Conv2d] = IntConv2d
    INTEGER_LAYERS[wrappers.ConvTranspose2d] = IntConvTranspose2d
    INTEGER_LAYERS[wrappers.Linear] = IntLinear
