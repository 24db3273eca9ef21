"""Turning the integer layers of a model back into float ones, in place."""

from __future__ import annotations

from torch import nn

from ..ops.recomputation import RecomputedScope
from ..ops.scope import ForwardScope
from .registered import is_converted
from .unregistered import unregistered

ADDED = 'bits', 'exponents', 'site', '_mapped'  # by `IntLayer.make_integer`


def restore(model: nn.Module) -> nn.Module:
    """Undoes `mmint.convert`, in place: ``model`` computes in float, as its stock classes do.

    Parameters, buffers, hooks and state_dict keys stay the same, their values too. So a trained
    model can be traced, scripted, exported or compiled; `copy.deepcopy` keeps the integer one. A
    layer that was built as an integer one becomes the layer of PyTorch that it derives from.

    Args:
        model: a model, converted or not, or one with layers of `mmint.layers`.

    Returns:
        ``model``.
    """
    roots = model, *unregistered(model).values()
    for module in (module for root in roots for module in root.modules()):
        scope = module.__dict__.get('forward')
        if isinstance(scope, ForwardScope):
            del module.forward
            if scope.own is not None:
                module.forward = scope.own
            if isinstance(scope, RecomputedScope):
                delattr(module, scope.method)
        stock, added = module.__dict__.pop('_stock', (None, ()))
        if stock is None and is_converted(module):
            stock = next(c for c in type(module).__mro__ if c.__module__.startswith('torch.nn.'))
            added = ADDED
        for name in added:
            module.__dict__.pop(name, None)
        if stock is not None:
            module.__class__ = stock
    return model
