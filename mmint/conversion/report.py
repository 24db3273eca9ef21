"""What a conversion did, module by module, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.utils import _pair

from .registered import is_converted

# What a module became that has a scope for what it computes itself; or not even; or nothing, since
# the model does not register it and no pattern names it.
CLASS_KEPT, LEFT_ALONE, UNREGISTERED = 'class kept', 'left alone', 'not registered'


@dataclass(frozen=True)
class Converted:
    """What became of one module.

    Attributes:
        name: of the module.
        before: its class.
        after: its class, or `CLASS_KEPT` where its own additions and products became integer, or
            `LEFT_ALONE`, or `UNREGISTERED`.
        arithmetic: what it computes in, as `arithmetic_of` says.
        bits: of its integers, None if it has none.
        exponents: as in `mmint.convert`, None if it has no integers.
        parameters: how many it has of its own.
    """

    name: str
    before: str
    after: str
    arithmetic: str
    bits: int | None
    exponents: str | None
    parameters: int


def arithmetic_of(module: nn.Module, bits: int | None) -> str:
    """What the own code of a module computes in, which has ``bits`` if that is integers.

    ``integer`` is an integer layer, ``partly integer`` a module whose additions and products are,
    but no softmax, say. What only moves and compares is ``exact``, and ``exact, float gradient``
    where gradients of what it moved more than once are added in float. The rest is ``float``.
    """
    if bits is not None:
        return 'integer' if is_converted(module) else 'partly integer'
    if isinstance(module, nn.MaxPool2d):
        windows = zip(_pair(module.kernel_size), _pair(module.stride), strict=True)
        return 'exact, float gradient' if any(k > s for k, s in windows) else 'exact'
    if is_converted(module):
        return 'exact'
    if type(module).forward is nn.Embedding.forward and module.max_norm is None:
        return 'exact, float gradient'
    return 'float'


def format_report(report: Sequence[Converted]) -> str:
    """A table of ``report``: converted and left alone, by class and format, with their names."""
    groups: dict[tuple[str, str, str, int | None, str | None], list[Converted]] = {}
    for entry in report:
        kind = entry.before, entry.after, entry.arithmetic, entry.bits, entry.exponents
        groups.setdefault(kind, []).append(entry)
    rows = [('layer', 'became', 'arithmetic', 'bits', 'exponents', 'count', 'parameters', 'where')]
    for (before, after, arithmetic, bits, exponents), entries in sorted(
        groups.items(), key=lambda group: group[0][3] is None
    ):
        rows.append(
            (
                before,
                after,
                arithmetic,
                '' if bits is None else str(bits),
                exponents or '',
                str(len(entries)),
                f'{sum(e.parameters for e in entries):,}',
                ', '.join(dict.fromkeys(e.name.split('.')[0] for e in entries)),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ['  '.join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return '\n'.join(line.rstrip() for line in lines)
