"""What was recorded: numbers for a program, and a table for people.

`Report.to_json` gives::

    integer_mac_share   of all multiply-adds of the kinds below, the part done in integers, 0 to 1
    multiply_adds       {kind: {phase: {'integer': int, 'float': int}}}
    shares              {kind: integer part, 0 to 1, or None where it has no multiply-adds}
    mappings            {'free': tensors mapped at several exponents, 'tensor': at one}
    bytes_between_layers  {'integer': int, 'float32': int}: what operations read and wrote of
                        activations and their gradients (`mmint.analysis.traffic`)
    float_operations    the float arithmetic that remains, a list, most elements first, of
        phase           'forward', 'backward' or 'optimizer'
        reason          why it is there: 'loss', 'softmax', 'box coding', ...; 'other' if unknown
        operator        PyTorch's name
        module          where, a name of the model's modules; '' for the model itself
        kind            the kind that its multiply-adds count as, or None
        calls           how often it ran in the step
        elements        on how many elements, all calls together
        multiply_adds   all calls together

Kinds: convolution, linear, matmul (products of two activations), norm, addition (residual and
other additions of activations, and gradients that meet), pooling,
interpolation (resizing and RoIAlign, losses aside), optimizer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..numerics.fixed_point import EXPONENTS, FREE, ONE_A_TENSOR
from .float_operations import KINDS
from .traffic import FLOAT32, INTEGER

PHASES = ('forward', 'backward', 'optimizer')
ARITHMETICS = ('integer', 'float')


@dataclass
class FloatOperation:
    """The calls of one operator for one reason in one module."""

    phase: str
    reason: str
    operator: str
    module: str
    kind: str | None
    calls: int = 0
    elements: int = 0
    multiply_adds: int = 0


class Report:
    """The arithmetic of one training step."""

    def __init__(self) -> None:
        self._integer: dict[tuple[str, str], int] = defaultdict(int)
        self._float: dict[tuple[str | None, ...], FloatOperation] = {}
        self.mappings = dict.fromkeys(EXPONENTS, 0)
        self.bytes_between_layers = dict.fromkeys((INTEGER, FLOAT32), 0)

    def add_integer(self, phase: str, kind: str, multiply_adds: int) -> None:
        """Counts a call of an integer function."""
        self._integer[phase, kind] += multiply_adds

    def add_mapping(self, exponents: int) -> None:
        """Counts a tensor that was mapped to integers with so many exponents."""
        self.mappings[FREE if exponents > 1 else ONE_A_TENSOR] += 1

    def add_traffic(self, moved: dict[str, int]) -> None:
        """Counts bytes that went between layers."""
        for form, size in moved.items():
            self.bytes_between_layers[form] += size

    def add_float(self, operation: FloatOperation) -> None:
        """Counts a call, or calls, of a float operator."""
        key = tuple(asdict(operation).values())[:5]
        total = self._float.setdefault(key, FloatOperation(*key))
        total.calls += operation.calls
        total.elements += operation.elements
        total.multiply_adds += operation.multiply_adds

    @property
    def float_operations(self) -> list[FloatOperation]:
        """The float arithmetic that remains, most elements first."""
        return sorted(self._float.values(), key=lambda o: -o.elements)

    def multiply_adds(self, kind: str, phase: str, arithmetic: str) -> int:
        """The multiply-adds of one kind in one phase, 'integer' or 'float'."""
        if arithmetic == 'integer':
            return self._integer[phase, kind]
        chosen = (o for o in self._float.values() if (o.kind, o.phase) == (kind, phase))
        return sum(o.multiply_adds for o in chosen)

    def share(self, kinds: Iterable[str] = KINDS) -> float | None:
        """The part of the multiply-adds of ``kinds`` done in integers; None if there are none."""
        integer, other = (
            sum(self.multiply_adds(kind, phase, arithmetic) for kind in kinds for phase in PHASES)
            for arithmetic in ARITHMETICS
        )
        return integer / (integer + other) if integer + other else None

    def to_json(self) -> dict[str, Any]:
        """See the module's docstring."""
        return dict(
            integer_mac_share=self.share(),
            multiply_adds={
                kind: {
                    phase: {a: self.multiply_adds(kind, phase, a) for a in ARITHMETICS}
                    for phase in PHASES
                }
                for kind in KINDS
            },
            shares={kind: self.share([kind]) for kind in KINDS},
            mappings=self.mappings,
            bytes_between_layers=self.bytes_between_layers,
            float_operations=[asdict(operation) for operation in self.float_operations],
        )

    def to_text(self) -> str:
        """Two tables: multiply-adds by kind, and the float arithmetic that remains by reason."""
        headline = f'{_percent(self.share())} of the multiply-adds are integer'
        free, mapped = self.mappings[FREE], sum(self.mappings.values())
        exponents = f'{free} of {mapped} mapped tensors have several exponents, the others one'
        integer, float32 = (_short(size) for size in self.bytes_between_layers.values())
        moved = f'{integer}B of integers and {float32}B of float32 move between layers'
        return (
            f'{headline}\n{exponents}\n{moved}\n\n{self._kinds_table()}\n\n{self._reasons_table()}'
        )

    def _kinds_table(self) -> str:
        rows = [
            ('', *(cell for phase in PHASES for cell in (phase, '')), 'integer'),
            ('multiply-adds', *(ARITHMETICS * len(PHASES)), 'share'),
        ]
        for kind in KINDS:
            counts = [self.multiply_adds(kind, p, a) for p in PHASES for a in ARITHMETICS]
            if any(counts):
                rows.append((kind, *map(_short, counts), _percent(self.share([kind]))))
        sums = [
            sum(self.multiply_adds(kind, p, a) for kind in KINDS)
            for p in PHASES
            for a in ARITHMETICS
        ]
        rows.append(('all', *map(_short, sums), _percent(self.share())))
        return _table(rows, numbers=range(1, len(rows[0])))

    def _reasons_table(self) -> str:
        groups: dict[tuple[str, str, str | None], list[FloatOperation]] = defaultdict(list)
        for operation in self.float_operations:
            groups[operation.phase, operation.reason, operation.kind].append(operation)
        sizes = {key: sum(o.elements for o in group) for key, group in groups.items()}
        rows: list[tuple[str, ...]] = [
            ('float that remains', '', 'elements', 'calls', 'counts as', 'operators', 'where')
        ]
        for key in sorted(groups, key=lambda key: (PHASES.index(key[0]), -sizes[key])):
            phase, reason, kind = key
            rows.append(
                (
                    '' if phase in (row[0] for row in rows) else phase,
                    reason,
                    _short(sizes[key]),
                    str(sum(o.calls for o in groups[key])),
                    kind or '',
                    _some((o.operator for o in groups[key]), 3),
                    _where(o.module for o in groups[key]),
                )
            )
        return _table(rows, numbers=range(2, 4))


def _short(number: int) -> str:
    """Three digits and a unit of thousands."""
    if not number:
        return '-'
    for unit, size in (('G', 10**9), ('M', 10**6), ('k', 10**3)):
        if number >= size:
            return f'{number / size:.4g} {unit}'
    return str(number)


def _percent(share: float | None) -> str:
    """Rounded down: 100 % is all."""
    return '-' if share is None else f'{math.floor(share * 10**4) / 100:.2f} %'


def _some(names: Iterable[str], most: int) -> str:
    names = list(dict.fromkeys(names))
    more = f', {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


def _where(modules: Iterable[str]) -> str:
    """The modules, or the parts of the model that they lie in and how many."""
    parts = defaultdict(set)
    for module in modules:
        parts[module.split('.')[0]].add(module)
    named = [
        (inside.pop() if len(inside) == 1 else f'{part} ({len(inside)} modules)') or 'model'
        for part, inside in parts.items()
    ]
    return _some(named, 2)


def _table(rows: list[tuple[str, ...]], numbers: range) -> str:
    """Columns, those of ``numbers`` aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '  '.join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return '\n'.join(line.rstrip() for line in lines)
