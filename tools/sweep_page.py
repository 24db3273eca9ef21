"""The page of the sweep: which stock configs train, and how much of each is integer."""

from __future__ import annotations

import math
from collections import defaultdict

BARS = (0.999, 0.99, 0.95)
CLOSE = 0.05  # relative difference of the first losses
INTRO = """# Any stock config

One config of every folder of mmdet's, mmseg's and mmpretrain's (the smallest that trains, as names
tell), {count} in all, takes a training step on two random images, in float and in int8 from equal
weights and equal data. Images of detectors and segmenters are small, which leaves relatively more
to what grows with the weights, such as sums of their gradients; detectors learn from at most 64
regions of an image. *Integer* is the share of multiply-adds done in integers, by
[the audit](audit.md), without the optimizer and with it (SGD is integer, AdamW is not); *loss* is
that of the first step. A config that needs a package, a download or an operator that is missing
here does not run in float either.

```bash
python tools/sweep.py --out sweep.jsonl    # goes on where it was stopped
python tools/sweep.py --out sweep.jsonl --page docs/compatibility.md
```
"""


def page(results: list[dict]) -> str:
    """The page, in Markdown.

    Args:
        results: what `sweep` found, a dict for each config.
    """
    results = sorted(results, key=lambda result: result['config'])
    in_float = [result for result in results if runs(result, 'float')]
    in_both = [result for result in in_float if runs(result, 'int8')]
    parts = [INTRO.format(count=len(results)), summary(results, in_float, in_both)]
    broken = [result for result in in_float if not runs(result, 'int8')]
    if broken:
        rows = [(name(result), error(result, 'int8')) for result in broken]
        parts.append('## In float only\n\n' + table(('config', 'in int8'), rows))
    low = sorted((r for r in in_both if r['int8']['share'] < BARS[-1]), key=share)
    if low:
        rows = [(name(result), percent(share(result)), remains(result, 3)) for result in low]
        head = ('config', 'integer', 'multiply-adds in float, and where most of them are')
        parts.append('## Below 95 %\n\n' + table(head, rows))
    for package in sorted({result['config'].split('::')[0] for result in in_both}):
        rows = [row(result) for result in in_both if result['config'].startswith(package)]
        head = (
            'config',
            'integer',
            'with optimizer',
            'loss, float',
            'int8',
            'most of what is float',
        )
        parts.append(f'## {package}\n\n' + table(head, rows))
    missing = [result for result in results if result not in in_float]
    if missing:
        rows = [(name(result), error(result, 'float')) for result in missing]
        rows.sort(key=lambda cells: cells[1])
        parts.append('## Neither in float nor in int8\n\n' + table(('config', 'in float'), rows))
    return '\n\n'.join(part.strip() for part in parts) + '\n'


def line(result: dict) -> str:
    """One config in a line, for the terminal."""
    kind = 'int8' if 'int8' in result else 'float'
    text = f'{result["config"]} {kind} '
    if not runs(result, kind):
        return text + result[kind]['error']
    losses = ' '.join(number(result[kind]['loss']) for kind in ('float', 'int8'))
    return f'{text}{percent(share(result))}, losses {losses}'


def summary(results: list[dict], in_float: list[dict], in_both: list[dict]) -> str:
    """How many there are of what."""
    rows = [
        ('tried', len(results)),
        ('run in float', len(in_float)),
        ('of those, run in int8', len(in_both)),
    ]
    shares = [share(result) for result in in_both]
    for bar in BARS:
        rows.append((f'at least {100 * bar:g} % integer', sum(each >= bar for each in shares)))
    rows.append(
        (f'less than {100 * BARS[-1]:g} % integer', sum(each < BARS[-1] for each in shares))
    )
    close = sum(
        math.isclose(result['float']['loss'], result['int8']['loss'], rel_tol=CLOSE)
        for result in in_both
    )
    rows.append((f"first loss within {100 * CLOSE:g} % of float's", close))
    return table(('', 'configs'), [(what, str(count)) for what, count in rows], numbers=(1,))


def row(result: dict) -> tuple[str, ...]:
    """A config that runs in both."""
    shares = (percent(result['int8'][key]) for key in ('share', 'share_with_optimizer'))
    losses = (number(result[kind]['loss']) for kind in ('float', 'int8'))
    return name(result), *shares, *losses, remains(result, 1) if share(result) < BARS[0] else ''


def runs(result: dict, kind: str) -> bool:
    """Whether the step was taken in float, or in int8."""
    return 'error' not in result.get(kind, dict(error=''))


def share(result: dict) -> float:
    """The integer share without the optimizer."""
    return result['int8']['share']


def remains(result: dict, most: int) -> str:
    """The most of what is float: why, its part of the multiply-adds, and where most of it is."""
    parts: dict[str, float] = defaultdict(float)
    places: dict[str, str] = {}
    for reason, _, module, part in result['int8']['remains']:
        parts[reason] += part
        places.setdefault(reason, module or 'model')
    reasons = sorted(parts, key=lambda reason: -parts[reason])[:most]
    return '; '.join(f'{why} {100 * parts[why]:.2f} % (`{places[why]}`)' for why in reasons)


def error(result: dict, kind: str) -> str:
    """Why a step was not taken."""
    return result[kind]['error'].replace('`', "'")


def name(result: dict) -> str:
    """The folder and the name of a config."""
    return f'`{result["config"].split("::")[1].removesuffix(".py")}`'


def percent(part: float) -> str:
    """Rounded down: 100 % is all."""
    return f'{math.floor(part * 10**4) / 100:.2f} %'


def number(loss: float) -> str:
    """A loss."""
    return f'{loss:.4g}'


def table(head: tuple[str, ...], rows: list[tuple[str, ...]], numbers: tuple[int, ...] = ()) -> str:
    """In Markdown."""
    marks = ['---:' if i in numbers else '---' for i in range(len(head))]
    lines = [head, marks, *([cell.replace('|', '\\|') for cell in row] for row in rows)]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
