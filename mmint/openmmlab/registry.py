"""Making mmint known to OpenMMLab: registries, mmcv's own layer classes, config paths."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS, OPTIMIZERS

from ..convert import INTEGER_LAYERS
from ..layers import IntConv2d, IntConvTranspose2d, IntLinear
from ..optim import IntSGD


def register() -> None:
    """Registers everything in mmengine's root registries, which every scope falls back on."""
    from .. import hooks  # noqa: F401  its classes register themselves

    for layer in (IntConv2d, IntConvTranspose2d, IntLinear):
        MODELS.register_module(module=layer, force=True)
    OPTIMIZERS.register_module(module=IntSGD, force=True)
    MODULE2PACKAGE['mmint'] = 'mmint'
    try:
        version(MODULE2PACKAGE['mmseg'])
    except PackageNotFoundError:  # the maintained fork's distribution has another name
        MODULE2PACKAGE['mmseg'] = 'mmseg'


def convert_mmcv_layers() -> None:
    """Lets `convert` treat mmcv's wrappers, which only add empty batches, as the stock layers."""
    from mmcv.cnn.bricks import wrappers

    INTEGER_LAYERS[wrappers.Conv2d] = IntConv2d
    INTEGER_LAYERS[wrappers.ConvTranspose2d] = IntConvTranspose2d
    INTEGER_LAYERS[wrappers.Linear] = IntLinear
