"""Turning the layers of a model into integer layers, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from ..layers import IntLayer
from ..layers.base import DEFAULT_BITS
from ..numerics import FREE, check_bits, check_exponents
from ..ops.recomputation import RecomputedScope
from ..ops.run import Site
from ..ops.scope import ForwardScope
from . import conventions  # noqa: F401
from .registered import (
    bits_at_least,
    integer_class,
    is_converted,
    is_float_layer,
    recomputing_method,
)
from .report import CLASS_KEPT, LEFT_ALONE, UNREGISTERED, Converted, arithmetic_of
from .unregistered import unregistered

# What has a forward pass to make integer, though no parameters.
POOLING = nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Upsample


def convert(
    model: nn.Module,
    bits: int = DEFAULT_BITS,
    include: Sequence[str] = ('*',),
    exclude: Sequence[str] = (),
    layer_bits: Mapping[str, int] | None = None,
    exponents: str = FREE,
) -> list[Converted]:
    """Turns the layers of ``model`` into integer layers, in place.

    ReLU and max pooling are exact already; they become layers that keep less for the backward pass.

    A module stays the same object, with the same parameters, buffers, hooks and state_dict keys;
    only its class changes, to one derived from it. So layers that a model shares between two places
    stay shared. Subclasses that compute what a stock layer does are converted too, by the rule of
    `mmint.conversion.registered.integer_class`. A module with layers inside keeps its class and
    gets a `mmint.ops.scope.ForwardScope`, in which the additions, products, attention and average
    pooling of its own code are integer. Layers without an integer counterpart, such as LSTM or
    PReLU, stay in float. So do modules that the model does not register, such as the teacher of a
    distillation that is no child of it, unless ``include`` has their very names.

    Args:
        model: any PyTorch model.
        bits: width of the mantissas, 4..16.
        include: patterns of the modules to convert. A pattern is a module's qualified name, in
            which ``*`` and ``?`` stand for any characters, and covers all modules inside it.
        exclude: patterns of modules to leave alone.
        layer_bits: other widths, by pattern; the last pattern that matches counts. For a class of
            `register_bits` that counts where a pattern is the module's very name.
        exponents: ``'free'``, so that a tensor has one for each index of every axis over which an
            operation never sums, or ``'tensor'``, one a tensor, as in the paper.

    Returns:
        One entry for each module that was converted, has parameters of its own, computes in float
        or with bits of its own, in order, and then for each that is not registered.

    Raises:
        TypeError: if ``include`` or ``exclude`` is no list of patterns, or ``layer_bits`` no dict.
        ValueError: if bits are not in 4..16, ``exponents`` is neither ``'free'`` nor ``'tensor'``,
            a pattern matches no module, a module has no parameters yet, or other bits or exponents
            already, or a layer's settings have no integer counterpart; nothing is converted.
    """
    _check_patterns('include', include)
    _check_patterns('exclude', exclude)
    if not isinstance(layer_bits, Mapping | None):
        raise TypeError(
            f'layer_bits={layer_bits!r} was given, a dict of bits by pattern is accepted: write '
            "layer_bits={'backbone.conv1': 12}, for one"
        )
    layer_bits = dict(layer_bits or {})
    for asked in (bits, *layer_bits.values()):
        check_bits(asked)
    check_exponents(exponents)
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    others = unregistered(model)
    for name in [name for name in others if name in include]:
        for inner, module in others.pop(name).named_modules(prefix=name, remove_duplicate=False):
            names.setdefault(module, []).append(inner)
    for pattern in (*include, *exclude, *layer_bits):
        if not any(_matches(known, pattern) for known in (*names.values(), list(others))):
            some = ', '.join(name for name, _ in model.named_children())
            raise ValueError(
                f'the pattern {pattern!r} was given, which matches no module: use names like those '
                f'in model.named_modules(), which begin with {some}'
            )
    plan: dict[nn.Module, type[nn.Module] | None] = {}
    widths: dict[nn.Module, int | None] = {}
    left: set[nn.Module] = set()
    for module, aliases in names.items():
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
            raise ValueError(
                f'the module {aliases[0]} was given, a {type(module).__name__} that has no '
                'parameters yet, one with parameters is accepted: give it the size of its input, '
                'or run the model once before it is converted'
            )
        plan[module], widths[module] = None, _own_bits(module)
        if not _matches(aliases, *include) or _matches(aliases, *exclude):
            left.add(module)
            continue
        has, wanted = _own_bits(module), _width(module, aliases, bits, layer_bits)
        if has not in (None, wanted):
            raise ValueError(
                f'the module {aliases[0]!r} was given, which has {has} bits already, and {wanted} '
                'are asked for: exclude it, give its bits in `layer_bits`, or convert the float '
                'model'
            )
        if _own_exponents(module) not in (None, exponents):
            raise ValueError(
                f'the module {aliases[0]!r} was given, which has exponents='
                f'{_own_exponents(module)!r} already, and {exponents!r} is asked for: exclude it, '
                'or convert the float model'
            )
        becomes = plan[module] = None if wanted is None else integer_class(type(module))
        widths[module] = None if becomes is None and is_float_layer(module) else wanted
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
    scopes: dict[str, nn.Module] = {}  # the modules that have one, by name
    for number, (module, aliases) in enumerate(names.items()):
        before, becomes, width = type(module).__name__, plan[module], widths[module]
        listed = False
        if becomes is not None and width is not None:
            _make_integer(module, becomes, width, exponents)
        if isinstance(module, IntLayer):
            module.site = Site(aliases[0], number)
        elif _has_code(module):
            around = _around(aliases[0], scopes)
            both_left = module in left and around in left
            differs = around is not None and widths[around] != width and not both_left
            by_class = bits_at_least(type(module), bits) != bits
            has_scope = isinstance(module.__dict__.get('forward'), ForwardScope)
            if differs or has_scope or (_computes(module) and not (by_class and width is None)):
                own_exponents = _own_exponents(module) or exponents
                _enter_scope(module, Site(aliases[0], number), width, own_exponents)
                scopes.update(dict.fromkeys(aliases, module))
            listed = differs and (by_class or not _computes(module))
        own_bits = _own_bits(module)
        after = type(module).__name__
        if not is_converted(module):
            after = LEFT_ALONE if own_bits is None else CLASS_KEPT
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if own or listed or is_converted(module) or is_float_layer(module):
            arithmetic = arithmetic_of(module, own_bits)
            formats = own_bits, _own_exponents(module)
            report.append(Converted(aliases[0], before, after, arithmetic, *formats, own))
    for name, module in others.items():
        kind, total = type(module).__name__, sum(p.numel() for p in module.parameters())
        report.append(Converted(name, kind, UNREGISTERED, 'float', None, None, total))
    return report


def _width(
    module: nn.Module, names: Sequence[str], bits: int, layer_bits: Mapping[str, int]
) -> int | None:
    """The bits that a module is asked to have, None for float."""
    width = [bits, *(w for pattern, w in layer_bits.items() if _matches(names, pattern))][-1]
    if any(name in layer_bits for name in names):
        return width
    return bits_at_least(type(module), width)


def _make_integer(module: nn.Module, becomes: type[nn.Module], bits: int, exponents: str) -> None:
    module.__dict__.pop('forward', None)  # the scope of a layer that was excluded before
    stock, had = type(module), set(vars(module))
    module.__class__ = becomes
    if isinstance(module, IntLayer):
        module.make_integer(bits, exponents)
    added = tuple(set(vars(module)) - had)
    module.__dict__['_stock'] = stock, added  # for `restore`


def _enter_scope(module: nn.Module, site: Site, bits: int | None, exponents: str) -> None:
    method = recomputing_method(type(module))
    if method is None:
        module.forward = ForwardScope(module, site, bits, exponents)
    else:
        module.forward = scope = RecomputedScope(module, site, bits, method, exponents)
        module.__dict__[method] = scope.recompute


def _around(name: str, scopes: Mapping[str, nn.Module]) -> nn.Module | None:
    """The innermost of ``scopes`` around the module ``name``."""
    while name:
        name = name.rpartition('.')[0]
        if name in scopes:
            return scopes[name]
    return None


def _own_bits(module: nn.Module) -> int | None:
    """The width of an integer layer, or of what a module's own code computes; None in float."""
    if isinstance(module, IntLayer):
        return module.bits
    scope = module.__dict__.get('forward')
    return scope.bits if isinstance(scope, ForwardScope) else None


def _own_exponents(module: nn.Module) -> str | None:
    """Those of an integer layer, or of what a module's own code computes; None in float."""
    if isinstance(module, IntLayer):
        return module.exponents
    scope = module.__dict__.get('forward')
    return scope.exponents if isinstance(scope, ForwardScope) and scope.bits is not None else None


def _check_patterns(name: str, patterns: Sequence[str]) -> None:
    is_list = isinstance(patterns, Sequence) and not isinstance(patterns, str)
    if not is_list or not all(isinstance(pattern, str) for pattern in patterns):
        example = patterns if isinstance(patterns, str) else 'backbone'
        raise TypeError(
            f'{name}={patterns!r} was given, a list of patterns is accepted: write '
            f'{name}=[{example!r}], for one'
        )


def _has_code(module: nn.Module) -> bool:
    """Whether a module may compute something itself, its class being no layer's."""
    return not is_converted(module) and type(module).forward is not nn.Module.forward


def _computes(module: nn.Module) -> bool:
    """Whether a module is likely to compute what an integer operation replaces, or float does."""
    return (
        isinstance(module, POOLING)
        or is_float_layer(module)
        or any(True for _ in module.parameters())
    )


def _matches(names: Sequence[str], *patterns: str) -> bool:
    """Whether a pattern covers a module, which may have several names."""
    return any(
        fnmatchcase(name, pattern) or fnmatchcase(name, f'{pattern}.*')
        for name in names
        for pattern in patterns
    )
