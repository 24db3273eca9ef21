"""The numbers of a comparison: metrics, loss, time and memory of paired runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paired_statistics import Paired, paired, pairs_for, visible
from run_folder import Run, main_metric

STEPS = 0.1, 0.2, 0.5, 1.0, 2.0, 5.0  # points for which the needed seeds are told


@dataclass(frozen=True)
class Row:
    """One quantity of all runs.

    Attributes:
        name, unit: of the quantity.
        values: of the float and of the integer runs.
        relative: whether the difference is told in per cent of the float run's value.
    """

    name: str
    unit: str
    values: tuple[list[float], list[float]]
    relative: bool = False

    @property
    def differences(self) -> list[float]:
        """Integer minus float, of each pair."""
        pairs = zip(*self.values, strict=True)
        return [100 * (b / a - 1) if self.relative else b - a for a, b in pairs]

    @property
    def difference(self) -> Paired:
        """The differences in brief."""
        return paired(self.differences)

    def summary(self, kind: int, digits: int) -> str:
        """Mean and standard deviation of the runs of a kind, 0 for float, 1 for integer."""
        values = self.values[kind]
        mean = f'{statistics.fmean(values):.{digits}f}'
        return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.{digits}f}'

    @property
    def digits(self) -> int:
        """Decimals that show values and differences."""
        largest = max(abs(value) for values in self.values for value in values)
        return 0 if largest >= 1000 else 1 if largest >= 10 else 3


class Comparison:
    """Pairs of a float and an integer run.

    Args:
        pairs: the runs.
        seeds: of the pairs, 0, 1, ... unless given.

    Raises:
        SystemExit: if a run has no training loss or no evaluation at its end, or the runs have no
            metric in common.
    """

    def __init__(self, pairs: Sequence[tuple[Run, Run]], seeds: Sequence[int] = ()) -> None:
        self.pairs, self.seeds = list(pairs), list(seeds) or list(range(len(pairs)))
        self.runs: tuple[list[Run], list[Run]] = tuple(map(list, zip(*pairs, strict=True)))
        for run in (run for pair in pairs for run in pair):
            if not run.losses or not run.metrics:
                raise SystemExit(
                    f'{run.folder} was given, a work folder with '
                    f'{"no evaluation after its last iteration" if run.losses else "no training"}, '
                    'one of a training that was evaluated at its end is accepted: train it to the '
                    'end, with val_interval such that it is evaluated there'
                )
        first, *others = (run.metrics for pair in pairs for run in pair)
        names = [name for name in first if all(name in other for other in others)]
        if not names:
            raise SystemExit(
                f'runs with the metrics {", ".join(first)} were given beside others without them, '
                'runs of one evaluator are accepted: compare runs with the same val_evaluator'
            )
        main = main_metric(names)
        self.metrics = [
            self._row(short(name), 'points', lambda run, name=name: run.metrics[name])
            for name in [main, *(name for name in names if name != main)]
        ]
        self.main_name = main
        self.loss = self._row('training loss, last sixth', '', Run.last_loss, True)
        self.costs = [self._row('training time', 's', lambda run: run.seconds, True)]
        if all(run.peak_memory for pair in pairs for run in pair):
            self.costs.append(self._row('peak memory', 'MB', lambda run: run.peak_memory, True))

    def _row(self, name: str, unit: str, value: Any, relative: bool = False) -> Row:
        one, other = ([value(run) for run in runs] for runs in self.runs)
        return Row(name, unit, (one, other), relative)

    @property
    def rows(self) -> list[Row]:
        """All quantities, the main metric first."""
        return [*self.metrics, self.loss, *self.costs]

    def answer(self) -> tuple[str, str]:
        """The comparison in a sentence, and what it is worth."""
        main = self.metrics[0]
        mean, low, high = (main.difference.mean, main.difference.low, main.difference.high)
        if low is None:
            return (
                f'{main.name}: integer {mean:+.1f} points from float, in one pair of runs.',
                'One pair says nothing of how far runs spread by themselves: train more seeds.',
            )
        seen = visible(main.difference.spread, main.difference.pairs)
        verdict = (
            'Zero is inside: these runs do not tell the two apart.'
            if low <= 0 <= high
            else f'Zero is outside: integer is {"ahead" if mean > 0 else "behind"} here.'
        )
        return (
            f'{main.name}: integer {mean:+.1f} points from float, 95 % interval {low:+.1f} to '
            f'{high:+.1f} ({main.difference.pairs} pairs).',
            f'{verdict} So many pairs show a true difference of {seen:.1f} points four times in '
            'five.',
        )

    def needed(self) -> list[tuple[float, int | None]]:
        """For differences of the main metric, how many seeds show them four times in five."""
        spread = self.metrics[0].difference.spread
        return [] if not spread else [(step, pairs_for(step, spread)) for step in STEPS]

    def to_text(self) -> str:
        """The answer and a table, for the terminal."""
        header = ('', 'float', 'integer', 'difference', '95 % interval')
        table = [header, *(cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            '  '.join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in table
        ]
        return '\n'.join([*self.answer(), '', *lines])

    def to_json(self) -> dict:
        """All numbers; differences of what is no metric are in per cent of float's."""
        return dict(
            seeds=self.seeds,
            folders=[[str(run.folder) for run in pair] for pair in self.pairs],
            answer=' '.join(self.answer()),
            rows=[
                dict(
                    name=row.name,
                    unit=row.unit,
                    float=row.values[0],
                    integer=row.values[1],
                    differences=row.differences,
                    relative=row.relative,
                    **row.difference._asdict(),
                )
                for row in self.rows
            ],
            seeds_needed=[dict(points=step, seeds=pairs) for step, pairs in self.needed()],
        )


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """A row as text: name, float, integer, difference, interval."""
    unit, digits = (' %', 1) if row.relative else ('', row.digits)
    difference = row.difference
    interval = (
        ''
        if difference.low is None
        else (f'{difference.low:+.{digits}f} to {difference.high:+.{digits}f}{unit}')
    )
    return (
        f'{row.name}, {row.unit}' if row.unit not in ('', 'points') else row.name,
        row.summary(0, row.digits),
        row.summary(1, row.digits),
        f'{difference.mean:+.{digits}f}{unit}',
        interval,
    )


def short(name: str) -> str:
    """A metric's name without the data set's, as people write it."""
    return name.split('/')[-1].replace('bbox_', '').replace('_', ' ')
