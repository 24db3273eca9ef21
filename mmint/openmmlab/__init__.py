"""What exists only for OpenMMLab: registration, mmcv's operators, data sets."""

from importlib.util import find_spec

from .registry import convert_mmcv_layers, register

register()
if find_spec('mmcv') is not None:
    from .mmcv_ops import provide_mmcv_ops

    provide_mmcv_ops()
    convert_mmcv_layers()
