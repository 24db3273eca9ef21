"""Operators for an mmcv that was installed without its compiled ones.

mmcv's plain wheels carry ``mmcv/ops/*.py`` but not the extension ``mmcv._ext`` those files load,
so ``import mmcv.ops`` fails, and every detector with it. :func:`provide_mmcv_ops` puts a module of
that name in place, whose functions have the arguments of mmcv's C++ ones and run on torchvision's
and PyTorch's operators, on any device those support. It must run before ``mmcv.ops`` is imported.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

NAME = 'mmcv._ext'
TINY = torch.finfo(torch.float32).tiny


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the kept boxes, best score first; a width is ``x2 - x1 + offset``."""
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torch.ops.torchvision.nms(boxes, scores, iou_threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average-pool each region of interest into ``output`` (n, c, height, width)."""
    _require_average(pool_mode)
    pooled = torch.ops.torchvision.roi_align(
        input,
        rois.to(input.dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        sampling_ratio,
        aligned,
    )
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``."""
    _require_average(pool_mode)
    grad = torch.ops.torchvision._roi_align_backward(
        grad_output,
        rois.to(grad_output.dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.add_(grad)


def _require_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise RuntimeError(
            "mmcv operator 'roi_align' with pool_mode='max' is not provided through torchvision: "
            f"use pool_mode='avg', or {INSTALL}."
        )


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the focal loss of every logit (n, classes) into ``output``.

    The class wanted costs ``-alpha (1-p)^gamma log p``, every other one
    ``-(1-alpha) p^gamma log(1-p)``; ``target == classes`` is background, so it wants none.
    """
    p = input.sigmoid()
    q = 1 - p
    wanted = -alpha * q.pow(gamma) * p.clamp(min=TINY).log()
    other = (alpha - 1) * p.pow(gamma) * q.clamp(min=TINY).log()
    output.copy_(_select(input, target, weight, wanted, other))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of :func:`sigmoid_focal_loss_forward` into ``grad_input``."""
    p = input.sigmoid()
    q = 1 - p
    wanted = -alpha * q.pow(gamma) * (q - gamma * p * p.clamp(min=TINY).log())
    other = (alpha - 1) * p.pow(gamma) * (gamma * q * q.clamp(min=TINY).log() - p)
    grad_input.copy_(_select(input, target, weight, wanted, other))


def _select(input: Tensor, target: Tensor, weight: Tensor, wanted: Tensor, other: Tensor) -> Tensor:
    """``wanted`` where the column is the row's target, else ``other``; rows weighted by target."""
    columns = torch.arange(input.size(1), device=input.device)
    value = torch.where(target[:, None] == columns, wanted, other)
    if weight.numel():
        # A background row has no weight of its own; mmcv reads past the end there, we take 1.
        weight = torch.cat([weight, weight.new_ones(1)])
        value = value * weight[target][:, None]
    return value


def get_compiler_version() -> str:
    """What mmengine's environment report shows as mmcv's compiler."""
    return 'n/a (operators provided by mmint)'


def get_compiling_cuda_version() -> str:
    """What mmengine's environment report shows as mmcv's CUDA compiler."""
    return 'n/a (operators provided by mmint)'


PROVIDED: dict[str, Callable] = {
    function.__name__: function
    for function in (
        nms,
        roi_align_forward,
        roi_align_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
        get_compiler_version,
        get_compiling_cuda_version,
    )
}
INSTALL = (
    'install mmcv with its compiled operators '
    '(`MMCV_WITH_OPS=1 pip install --no-binary onedl-mmcv onedl-mmcv`, or `mim install mmcv`)'
)


def _missing(name: str) -> Callable:
    """An operator that says what it is called and how to get it."""
    if name.startswith('_'):  # Python's own questions (`__path__`, ...): not operators
        raise AttributeError(f'module {NAME!r} has no attribute {name!r}')

    def operator(*args: object, **kwargs: object) -> None:
        raise RuntimeError(
            f'mmcv operator {name!r} is not among those that mmint provides: {INSTALL}.'
        )

    operator.__name__ = name
    return operator


class _Loader(importlib.abc.Loader):
    """Fills the module; mmcv and mmengine look for a spec with a loader."""

    def exec_module(self, module: ModuleType) -> None:
        module.__doc__ = __doc__
        module.__dict__.update(PROVIDED, __getattr__=_missing)


def provide_mmcv_ops() -> tuple[str, ...]:
    """Provide ``mmcv._ext`` where mmcv has no compiled operators.

    Where mmcv has them, is not installed, or was provided for already, nothing changes.

    Returns:
        The names of the operators provided by this call, empty if nothing was done.
    """
    if NAME in sys.modules or importlib.util.find_spec('mmcv') is None:
        return ()
    if importlib.util.find_spec(NAME) is not None:
        return ()
    try:
        import torchvision  # noqa: F401  (registers torch.ops.torchvision)
    except ImportError as error:
        raise ImportError(
            f'mmcv has no compiled operators and torchvision, which provides them, is missing '
            f'({error}): install the torchvision that goes with this PyTorch, or a full mmcv'
        ) from error
    from mmengine.logging import print_log

    loader = _Loader()
    spec = importlib.machinery.ModuleSpec(NAME, loader, origin='mmint')
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[NAME] = module
    sys.modules['mmcv']._ext = module  # type: ignore[attr-defined]  # as an import would
    names = tuple(name for name in PROVIDED if not name.startswith('get_'))
    print_log(
        f'mmcv has no compiled operators: provided {", ".join(names)} through torchvision.',
        logger='current',
        level=logging.INFO,
    )
    return names
