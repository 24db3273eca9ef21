"""What a conversion did, module by module, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .registered import integer_classes

# What a module became that has parameters of its own, and a scope for what it does with them.
CLASS_KEPT = 'class kept'


@dataclass(frozen=True)
class Converted:
    """What became of one module."""

    name: str
    before: str
    after: str  # its class, or `CLASS_KEPT`
    bits: int | None  # None if it has no integers: exact as it is, or left alone
    exponents: str | None  # the same
    parameters: int


def format_report(report: Sequence[Converted]) -> str:
    """A table of ``report``: converted and left alone, by class and format, with their names."""
    integer = {CLASS_KEPT, *(layer.__name__ for layer in integer_classes())}
    groups: dict[tuple[str, str, int | None, str | None], list[Converted]] = {}
    for entry in report:
        key = entry.before, entry.after, entry.bits, entry.exponents
        groups.setdefault(key, []).append(entry)
    rows = [('layer', 'became', 'bits', 'exponents', 'count', 'parameters', 'where')]
    for (before, after, bits, exponents), entries in sorted(
        groups.items(), key=lambda g: g[0][2] is None
    ):
        rows.append(
            (
                before,
                after if after in integer else 'left alone',
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
