"""What exists only for OpenMMLab: registration, mmcv's operators, data sets."""

from importlib.util import find_spec

from .compat.registry import convert_mm_norms, convert_mmcv_layers, register
from .compat.ssd_head import let_ssd_predict

register()
convert_mm_norms()
let_ssd_predict()
if find_spec('mmcv') is not None:
    from .compat.mmcv_ops import provide_mmcv_ops

    provide_mmcv_ops()
    convert_mmcv_layers()
