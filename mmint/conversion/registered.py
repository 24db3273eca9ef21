"""Which layer becomes which integer layer, and whose own code stays in float."""

from __future__ import annotations

import re

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..layers import (
    CompactMaxPool2d,
    CompactReLU,
    IntBatchNorm1d,
    IntBatchNorm2d,
    IntConv2d,
    IntConvTranspose2d,
    IntGroupNorm,
    IntLayerNorm,
    IntLinear,
    IntSyncBatchNorm,
)

_integer_layers: dict[type[nn.Module] | str, type[nn.Module]] = {
    nn.Conv2d: IntConv2d,
    nn.ConvTranspose2d: IntConvTranspose2d,
    nn.Linear: IntLinear,
    nn.BatchNorm1d: IntBatchNorm1d,
    nn.BatchNorm2d: IntBatchNorm2d,
    nn.SyncBatchNorm: IntSyncBatchNorm,
    nn.GroupNorm: IntGroupNorm,
    nn.LayerNorm: IntLayerNorm,
    nn.ReLU: CompactReLU,
    nn.MaxPool2d: CompactMaxPool2d,
}
_float_classes: set[type[nn.Module]] = set()

# PyTorch's layers whose own code calls what has an integer version, where a subclass inherits it.
_CALL_INTEGER_FUNCTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Linear, nn.LayerNorm, nn.GroupNorm, _BatchNorm, _InstanceNorm),
)
# Layers of others, and their subclasses, whose own code calls nothing that has an integer version.
_FLOAT_LAYERS = {
    'mmcv.cnn.bricks.wrappers.Conv3d',
    'mmcv.cnn.bricks.wrappers.ConvTranspose3d',
    'mmcv.ops.deform_conv.DeformConv2d',
    'mmcv.ops.modulated_deform_conv.ModulatedDeformConv2d',
    'torchvision.ops.deform_conv.DeformConv2d',
    'torchvision.ops.misc.FrozenBatchNorm2d',
}


def register_layer(stock: type[nn.Module] | str, integer: type[nn.Module]) -> None:
    """Lets `convert` turn modules of class ``stock`` into ``integer``, in every later call.

    Only modules of that very class are turned: a subclass may compute something else. A module
    gets the class ``integer`` and keeps its attributes; where that is an `IntLayer`,
    ``integer.check(module)`` may refuse it, and ``make_integer(bits)`` sets what it lacks.

    Args:
        stock: the class, or its qualified name (``'package.module.Class'``, where the class is
            defined), so that its library need not be imported. A class counts before its name.
        integer: what its modules become; registered again, the last one counts.

    Raises:
        TypeError: if one of them is no class of modules.
        ValueError: if a name is not qualified.
    """
    if not (isinstance(stock, str) or _is_module_class(stock)):
        raise TypeError(
            f'register_layer was given stock={stock!r}, a subclass of torch.nn.Module or its '
            "qualified name, as 'package.module.Class', is accepted: pass the layer's class"
        )
    if isinstance(stock, str) and not re.fullmatch(r'[^\W\d]\w*(\.[^\W\d]\w*)+', stock):
        raise ValueError(
            f'register_layer was given stock={stock!r}, a qualified name is accepted: write '
            "'package.module.Class', with the module in which the class is defined"
        )
    if not _is_module_class(integer):
        raise TypeError(
            f'register_layer was given integer={integer!r}, a subclass of torch.nn.Module is '
            'accepted: pass the class, usually one of `mmint.layers` or a subclass of it'
        )
    _integer_layers[stock] = integer


def integer_class(stock: type[nn.Module]) -> type[nn.Module] | None:
    """What a module of class ``stock`` becomes, None if it stays."""
    return _integer_layers.get(stock) or _integer_layers.get(_qualified_name(stock))


def integer_classes() -> set[type[nn.Module]]:
    """All that modules become."""
    return set(_integer_layers.values())


def keep_float(model: type[nn.Module]) -> None:
    """Leaves the own code of modules of class ``model``, or of a subclass, in float.

    For classes whose forward pass holds losses and box coding; the layers inside are converted.
    """
    _float_classes.add(model)


def stays_float(module: nn.Module) -> bool:
    """Whether a module's own code stays in float."""
    return isinstance(module, tuple(_float_classes))


def is_float_layer(module: nn.Module) -> bool:
    """Whether a module is a layer whose own code computes nothing but float, when in a scope.

    That is one with the ``forward`` of a layer of PyTorch, such as Conv3d, LSTM or Embedding.
    """
    classes = type(module).__mro__
    if any(_qualified_name(each) in _FLOAT_LAYERS for each in classes):
        return True
    owner = next(each for each in classes if 'forward' in vars(each))
    return (
        owner.__module__.startswith('torch.nn.modules.')
        and owner not in _CALL_INTEGER_FUNCTIONS
        and any(True for _ in module.parameters(recurse=False))
        and not any(True for _ in module.children())
    )


def _qualified_name(kind: type) -> str:
    return f'{kind.__module__}.{kind.__qualname__}'


def _is_module_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)
