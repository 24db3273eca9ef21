"""The layer classes of OpenMMLab's packages that `convert` treats as the stock layers."""

from __future__ import annotations

from mmengine.model import BaseModel
from torch import nn

from ...conversion import register_bits, register_layer, register_recomputation
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

# What classes compute themselves, where it is not to have the bits of the rest.
BITS: dict[type[nn.Module] | str, int | None] = {
    BaseModel: None,  # losses and box coding
    # Non-negative matrix factorisation divides by sums that round to 0 at few bits.
    'mmseg.models.decode_heads.ham_head.Matrix_Decomposition_2D_Base': 16,
    # Reversible: subtractions undo its additions, which must not round.
    'mmpretrain.models.backbones.revvit.RevTransformerEncoderLayer': None,
}
# The methods that run a forward pass again.
RECOMPUTATIONS: dict[type[nn.Module] | str, str] = {
    'mmpretrain.models.backbones.revvit.RevTransformerEncoderLayer': 'backward_pass',
}


def convert_mm_layers() -> None:
    """Registers `LAYERS`, `BITS` and `RECOMPUTATIONS`."""
    for stock, integer in LAYERS.items():
        register_layer(stock, integer)
    for model, bits in BITS.items():
        register_bits(model, bits)
    for block, method in RECOMPUTATIONS.items():
        register_recomputation(block, method)
