"""Which layer becomes which integer layer, and whose own code stays in float."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import CodeType

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from .. import layers
from ..numerics import check_bits
from .derived import keeping_class

_integer_layers: dict[type[nn.Module] | str, type[nn.Module]] = {
    nn.Conv1d: layers.IntConv1d,
    nn.Conv2d: layers.IntConv2d,
    nn.Conv3d: layers.IntConv3d,
    nn.ConvTranspose1d: layers.IntConvTranspose1d,
    nn.ConvTranspose2d: layers.IntConvTranspose2d,
    nn.ConvTranspose3d: layers.IntConvTranspose3d,
    nn.Linear: layers.IntLinear,
    _BatchNorm: layers.IntBatchNorm,
    nn.BatchNorm1d: layers.IntBatchNorm1d,
    nn.BatchNorm2d: layers.IntBatchNorm2d,
    nn.BatchNorm3d: layers.IntBatchNorm3d,
    nn.SyncBatchNorm: layers.IntSyncBatchNorm,
    'torchvision.ops.misc.FrozenBatchNorm2d': layers.IntFrozenBatchNorm2d,
    nn.InstanceNorm1d: layers.IntInstanceNorm1d,
    nn.InstanceNorm2d: layers.IntInstanceNorm2d,
    nn.InstanceNorm3d: layers.IntInstanceNorm3d,
    nn.GroupNorm: layers.IntGroupNorm,
    nn.LayerNorm: layers.IntLayerNorm,
    'torchvision.models.convnext.LayerNorm2d': layers.IntLayerNorm2d,
    nn.ReLU: layers.CompactReLU,
    nn.ReLU6: layers.CompactReLU6,
    nn.MaxPool2d: layers.CompactMaxPool2d,
    'mmcv.ops.roi_align.RoIAlign': layers.IntRoIAlign,
    'torchvision.ops.roi_align.RoIAlign': layers.IntRoIAlign,
}
_least_bits: dict[type[nn.Module] | str, int | None] = {}
_recomputing: dict[type[nn.Module] | str, str] = {}

# Whose integer versions take any shape, whatever shapes a subclass checks for.
_OF_ANY_SHAPE = _BatchNorm, nn.SyncBatchNorm
# PyTorch's layers whose own code calls what has an integer version, where a subclass inherits it.
_CALL_INTEGER_FUNCTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Linear, nn.LayerNorm, nn.GroupNorm, _BatchNorm, _InstanceNorm),
)
# Layers of others, and their subclasses, whose own code calls nothing that has an integer version.
_FLOAT_LAYERS = {
    'mmcv.ops.deform_conv.DeformConv2d',
    'mmcv.ops.modulated_deform_conv.ModulatedDeformConv2d',
    'torchvision.ops.deform_conv.DeformConv2d',
}


def register_layer(stock: type[nn.Module] | str, integer: type[nn.Module]) -> None:
    """Lets `convert` turn modules of class ``stock`` into ``integer``, in every later call.

    A subclass is turned too where it computes the same, as `integer_class` says. A module gets the
    class ``integer``, or one derived from ``integer`` and its own, and keeps its attributes; where
    that is an `IntLayer`, ``integer.check(module)`` may refuse it, and ``make_integer`` sets
    what it lacks.

    Args:
        stock: the class, or its qualified name (``'package.module.Class'``, where the class is
            defined), so that its library need not be imported. A class counts before its name.
        integer: what its modules become; registered again, the last one counts.

    Raises:
        TypeError: if one of them is no class of modules.
        ValueError: if a name is not qualified.
    """
    _check_stock('register_layer', stock)
    if not _is_module_class(integer):
        raise TypeError(
            f'register_layer was given integer={integer!r}, a subclass of torch.nn.Module is '
            'accepted: pass the class, usually one of `mmint.layers` or a subclass of it'
        )
    _integer_layers[stock] = integer


def integer_class(kind: type[nn.Module]) -> type[nn.Module] | None:
    """What a module of class ``kind`` becomes, None if it stays.

    That is the integer version of the class itself, or of the nearest class above whose ``forward``
    it inherits, if neither ``forward`` nor what that calls or reads of the module mentions a name
    that ``kind`` defines anew. So a subclass with other arguments, initial values or checkpoints is
    converted; one with a ``_conv_forward`` or a ``weight`` of its own is not.
    """
    for stock in kind.__mro__:
        integer = _integer_layers.get(stock) or _integer_layers.get(_qualified_name(stock))
        if integer is not None and (stock is kind or _computes_the_same(kind, stock)):
            return keeping_class(integer, kind)
    return None


def _computes_the_same(kind: type[nn.Module], stock: type[nn.Module]) -> bool:
    if kind.forward is not stock.forward:
        return False
    anew = {name for each in kind.__mro__ if each not in stock.__mro__ for name in vars(each)}
    if stock in _OF_ANY_SHAPE:
        anew.discard('_check_input_dim')
    return anew.isdisjoint(_mentioned(stock))


def _mentioned(stock: type[nn.Module]) -> frozenset[str]:
    """The names in the code of a class's ``forward``, and of its methods among them."""
    seen: set[str] = set()
    new = {'forward'}
    while new:
        seen |= new
        methods = [inspect.unwrap(getattr(stock, name)) for name in new if hasattr(stock, name)]
        codes = [method.__code__ for method in methods if inspect.isfunction(method)]
        new = {name for code in codes for name in _names(code)} - seen - vars(nn.Module).keys()
    return frozenset(seen - {'forward'})


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def is_converted(module: nn.Module) -> bool:
    """Whether a module is what modules become: a layer that computes in integers, or exactly."""
    return isinstance(module, tuple(set(_integer_layers.values())))


def register_bits(stock: type[nn.Module] | str, bits: int | None) -> None:
    """Sets how wide the mantissas of modules of class ``stock``, or of a subclass, are at least.

    For classes whose own code rounds badly at few bits, such as one that divides by small sums, or
    that should stay in float, such as losses and box coding. It concerns what the class computes
    itself, not the modules inside. In `convert`, ``layer_bits`` with a module's very name wins.

    Args:
        stock: the class, or its qualified name, as in `register_layer`; of the classes that a
            module inherits from, the nearest one that is registered counts.
        bits: 4..16, which more ``bits`` of a conversion exceed, or None for float.

    Raises:
        TypeError: if ``stock`` is no class of modules.
        ValueError: if ``bits`` are none of these, or a name is not qualified.
    """
    _check_stock('register_bits', stock)
    _least_bits[stock] = bits if bits is None else check_bits(bits)


def bits_at_least(kind: type[nn.Module], bits: int) -> int | None:
    """The width of what class ``kind`` computes where ``bits`` are asked for, None for float."""
    asked = [_least_bits[key] for key in _keys(kind) if key in _least_bits]
    least = asked[0] if asked else bits
    return None if least is None else max(bits, least)


def register_recomputation(stock: type[nn.Module] | str, method: str) -> None:
    """Says that a method of class ``stock`` runs the forward pass again, to back-propagate.

    As that of a reversible block, which computes its input from its output. What ``method`` calls
    draws the random bits that the forward pass drew.

    Args:
        stock: the class, or its qualified name, as in `register_layer`; subclasses are included.
        method: the name of the method, which is called in a backward pass.

    Raises:
        TypeError: if ``stock`` is no class of modules.
        ValueError: if a name is not qualified.
    """
    _check_stock('register_recomputation', stock)
    _recomputing[stock] = method


def recomputing_method(kind: type[nn.Module]) -> str | None:
    """What was registered for ``kind`` or a class that it inherits from."""
    return next((_recomputing[key] for key in _keys(kind) if key in _recomputing), None)


def is_float_layer(module: nn.Module) -> bool:
    """Whether a module is a layer whose own code computes nothing but float, when in a scope.

    That is one with the ``forward`` of a layer of PyTorch, such as LSTM or PReLU.
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


def _check_stock(function: str, stock: object) -> None:
    if not (isinstance(stock, str) or _is_module_class(stock)):
        raise TypeError(
            f'{function} was given stock={stock!r}, a subclass of torch.nn.Module or its '
            "qualified name, as 'package.module.Class', is accepted: pass the layer's class"
        )
    if isinstance(stock, str) and not re.fullmatch(r'[^\W\d]\w*(\.[^\W\d]\w*)+', stock):
        raise ValueError(
            f'{function} was given stock={stock!r}, a qualified name is accepted: write '
            "'package.module.Class', with the module in which the class is defined"
        )


def _keys(kind: type) -> list[type | str]:
    """What a class may be registered as, and those that it inherits from, the nearest first."""
    return [key for each in kind.__mro__ for key in (each, _qualified_name(each))]


def _qualified_name(kind: type) -> str:
    return f'{kind.__module__}.{kind.__qualname__}'


def _is_module_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)
