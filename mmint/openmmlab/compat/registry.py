"""Making mmint known to OpenMMLab: registries and config paths."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS, OPTIMIZERS

from ... import layers
from ...optim import IntSGD


class IntGroupNorm(layers.IntGroupNorm):
    """`mmint.layers.IntGroupNorm` as ``norm_cfg`` builds norms: the number of channels first."""

    def __init__(self, num_channels: int, num_groups: int, **kwargs: Any) -> None:
        super().__init__(num_groups, num_channels, **kwargs)


def register() -> None:
    """Registers everything in mmengine's root registries, which every scope falls back on."""
    from .. import engine  # noqa: F401  its classes register themselves

    for layer in (
        layers.IntConv1d,
        layers.IntConv2d,
        layers.IntConv3d,
        layers.IntConvTranspose1d,
        layers.IntConvTranspose2d,
        layers.IntConvTranspose3d,
        layers.IntLinear,
        layers.IntBatchNorm1d,
        layers.IntBatchNorm2d,
        layers.IntBatchNorm3d,
        layers.IntSyncBatchNorm,
        layers.IntInstanceNorm1d,
        layers.IntInstanceNorm2d,
        layers.IntInstanceNorm3d,
        IntGroupNorm,
        layers.IntLayerNorm,
    ):
        MODELS.register_module(module=layer, force=True)
    OPTIMIZERS.register_module(module=IntSGD, force=True)


def let_configs_inherit() -> None:
    """Lets configs inherit ``mmint::path``, and ``mmseg::path`` from the maintained fork."""
    MODULE2PACKAGE['mmint'] = 'mmint'
    try:
        version(MODULE2PACKAGE['mmseg'])
    except PackageNotFoundError:  # the fork's distribution has another name
        MODULE2PACKAGE['mmseg'] = 'mmseg'
