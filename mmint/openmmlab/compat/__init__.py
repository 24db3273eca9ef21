"""What OpenMMLab needs to know, or to have mended, before integers train its models."""

from .layers import convert_mm_layers
from .mmcv_ops import provide_mmcv_ops
from .registry import let_configs_inherit, register
from .ssd_head import let_ssd_predict


def change_other_packages() -> None:
    """Changes in other packages all that mmint changes there when it is imported.

    - mmengine's root registries get the integer layers (``MODELS``), ``IntSGD`` (``OPTIMIZERS``),
      ``IntOptimWrapper`` (``OPTIM_WRAPPERS``), ``IntTrainingHook`` (``HOOKS``) and ``IntRunner``
      (``RUNNERS``).
    - ``mmengine.config.utils.MODULE2PACKAGE`` gets ``mmint``, so that configs inherit
      ``mmint::...``; where mmsegmentation's distribution has another name, ``mmseg`` is corrected.
    - ``mmcv._ext`` is provided where mmcv has no compiled operators.
    - mmdet's ``SSDHead`` gets the attribute ``loss_cls`` that it lacks, once it is imported.

    Conversion, which is mmint's own, learns of classes of mmengine, mmcv, mmseg and mmpretrain.
    A run changes two more things: `mmint.ops.checkpoint.make_checkpoint_replay`, and how much freed
    memory the process keeps, `mmint.backends.cpu.memory.keep_freed_memory`.
    """
    register()
    let_configs_inherit()
    provide_mmcv_ops()
    let_ssd_predict()
    convert_mm_layers()
