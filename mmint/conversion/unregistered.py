"""Modules that a model uses and does not register, such as the teacher of a distillation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn


def unregistered(model: nn.Module) -> dict[str, nn.Module]:
    """The modules with parameters that are plain attributes in ``model``, by dotted name.

    That is, set with `object.__setattr__`, or kept in a list, tuple or dict, so that neither
    ``model.modules()`` nor ``model.parameters()`` has them: they are not trained and not saved.
    """
    known, found = set(model.modules()), {}
    for prefix, module in model.named_modules():
        for key, value in vars(module).items():
            for name, each in _modules(f'{prefix}.{key}'.lstrip('.'), value):
                if each not in known and any(True for _ in each.parameters()):
                    found[name] = each
                    known.update(each.modules())
    return found


def _modules(name: str, value: Any) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        yield name, value
    elif isinstance(value, list | tuple | dict):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inside:
            if isinstance(each, nn.Module):
                yield f'{name}.{key}', each
