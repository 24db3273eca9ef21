"""Turning the layers of a model into integer layers, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from ..layers import IntLayer
from ..layers.base import DEFAULT_BITS
from ..numerics import check_bits
from ..ops.run import Site
from ..ops.scope import ForwardScope
from . import conventions  # noqa: F401
from .registered import integer_class, is_converted, is_float_layer, stays_float
from .report import CLASS_KEPT, LEFT_ALONE, Converted, arithmetic_of

# What has a forward pass to make integer, though no parameters.
POOLING = nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d


def convert(
    model: nn.Module,
    bits: int = DEFAULT_BITS,
    include: Sequence[str] = ('*',),
    exclude: Sequence[str] = (),
    layer_bits: Mapping[str, int] | None = None,
) -> list[Converted]:
    """Turns the layers of ``model`` into integer layers, in place.

    ReLU and max pooling are exact already; they become layers that keep less for the backward pass.

    A module stays the same object, with the same parameters, buffers, hooks and state_dict keys;
    only its class changes, to one derived from it. So layers that a model shares between two places
    stay shared. Subclasses that compute what a stock layer does are converted too, by the rule of
    `mmint.conversion.registered.integer_class`. A module with layers inside keeps its class and
    gets a `mmint.ops.scope.ForwardScope`, in which the additions, products, attention and average
    pooling of its own code are integer. Layers without an integer counterpart, such as LSTM or
    PReLU, stay in float.

    Args:
        model: any PyTorch model.
        bits: width of the mantissas, 4..16.
        include: patterns of the modules to convert. A pattern is a module's qualified name, in
            which ``*`` and ``?`` stand for any characters, and covers all modules inside it.
        exclude: patterns of modules to leave alone.
        layer_bits: other widths, by pattern; the last pattern that matches counts.

    Returns:
        One entry for each module that was converted, has parameters of its own or computes in
        float, in order.

    Raises:
        TypeError: if ``include`` or ``exclude`` is no list of patterns, or ``layer_bits`` no dict.
        ValueError: if bits are not in 4..16, a pattern matches no module, a module has no
            parameters yet or other bits already, or a layer's settings have no integer
            counterpart; nothing is converted.
    """
    _check_patterns('include', include)
    _check_patterns('exclude', exclude)
    if not isinstance(layer_bits, Mapping | None):
        raise TypeError(
            f'layer_bits={layer_bits!r} was given, a dict of bits by pattern is accepted: write '
            "layer_bits={'backbone.conv1': 12}, for one"
        )
    layer_bits = dict(layer_bits or {})
    for width in (bits, *layer_bits.values()):
        check_bits(width)
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for pattern in (*include, *exclude, *layer_bits):
        if not any(_matches(module_names, pattern) for module_names in names.values()):
            some = ', '.join(name for name, _ in model.named_children())
            raise ValueError(
                f'the pattern {pattern!r} was given, which matches no module: use names like those '
                f'in model.named_modules(), which begin with {some}'
            )
    plan: dict[nn.Module, type[nn.Module] | None] = {}
    for module, aliases in names.items():
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
            raise ValueError(
                f'the module {aliases[0]} was given, a {type(module).__name__} that has no '
                'parameters yet, one with parameters is accepted: give it the size of its input, '
                'or run the model once before it is converted'
            )
        chosen = _chosen(aliases, include, exclude)
        has, wanted = _own_bits(module), _width(aliases, bits, layer_bits)
        if chosen and has not in (None, wanted):
            raise ValueError(
                f'the module {aliases[0]!r} was given, which has {has} bits already, and {wanted} '
                'are asked for: exclude it, give its bits in `layer_bits`, or convert the float '
                'model'
            )
        becomes = plan[module] = integer_class(type(module)) if chosen else None
        if becomes is None:
            continue
        forward = module.__dict__.get('forward')
        if (forward.own if isinstance(forward, ForwardScope) else forward) is not None:
            raise ValueError(
                f'the module {aliases[0]} was given, whose `forward` was replaced on the instance, '
                f'a {type(module).__name__} with the one of its class is accepted: exclude it from '
                'conversion, or convert before `forward` is replaced'
            )
        if issubclass(becomes, IntLayer):
            becomes.check(module)
    report = []
    for number, (module, aliases) in enumerate(names.items()):
        before, becomes = type(module).__name__, plan[module]
        if becomes is not None:
            module.__dict__.pop('forward', None)  # the scope of a layer that was excluded before
            stock, had = type(module), set(vars(module))
            module.__class__ = becomes
            if isinstance(module, IntLayer):
                module.make_integer(_width(aliases, bits, layer_bits))
            added = tuple(set(vars(module)) - had)
            module.__dict__['_stock'] = stock, added  # for `restore`
        if isinstance(module, IntLayer):
            module.site = Site(aliases[0], number)
        elif _has_operations(module):
            inside = _own_bits(module)
            if _chosen(aliases, include, exclude) and not is_float_layer(module):
                inside = _width(aliases, bits, layer_bits)
            module.forward = ForwardScope(module, Site(aliases[0], number), inside)
        own_bits = _own_bits(module)
        arithmetic = arithmetic_of(module, own_bits)
        after = type(module).__name__
        if not is_converted(module):
            after, own_bits = LEFT_ALONE if own_bits is None else CLASS_KEPT, None
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if own or is_converted(module) or is_float_layer(module):
            report.append(Converted(aliases[0], before, after, arithmetic, own_bits, own))
    return report


def _chosen(names: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> bool:
    return _matches(names, *include) and not _matches(names, *exclude)


def _width(names: Sequence[str], bits: int, layer_bits: Mapping[str, int]) -> int:
    return [bits, *(w for pattern, w in layer_bits.items() if _matches(names, pattern))][-1]


def _own_bits(module: nn.Module) -> int | None:
    """The width of an integer layer, or of what a module's own code computes; None in float."""
    if isinstance(module, IntLayer):
        return module.bits
    scope = module.__dict__.get('forward')
    return scope.bits if isinstance(scope, ForwardScope) else None


def _check_patterns(name: str, patterns: Sequence[str]) -> None:
    is_list = isinstance(patterns, Sequence) and not isinstance(patterns, str)
    if not is_list or not all(isinstance(pattern, str) for pattern in patterns):
        example = patterns if isinstance(patterns, str) else 'backbone'
        raise TypeError(
            f'{name}={patterns!r} was given, a list of patterns is accepted: write '
            f'{name}=[{example!r}], for one'
        )


def _has_operations(module: nn.Module) -> bool:
    """Whether a module's own code may compute what an integer operation replaces."""
    return (
        not is_converted(module)
        and type(module).forward is not nn.Module.forward
        and not stays_float(module)
        and (
            isinstance(module, POOLING)
            or is_float_layer(module)
            or any(True for _ in module.parameters())
        )
    )


def _matches(names: Sequence[str], *patterns: str) -> bool:
    """Whether a pattern covers a module, which may have several names."""
    return any(
        fnmatchcase(name, pattern) or fnmatchcase(name, f'{pattern}.*')
        for name in names
        for pattern in patterns
    )
