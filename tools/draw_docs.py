"""Draws the pictures of docs/deferred.md, and of docs/numbers.md as the reference computes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from mmint.backends import reference
from mmint.numerics import RandomBits, Role

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

DOCS = Path(__file__).parents[1] / 'docs'
RANDOM = RandomBits(seed=0, rank=0, layer=0, iteration=0, role=Role.INPUT)
BLUE, ORANGE, GREY, GREEN = '#2f6db5', '#d9730d', '#8a8a8a', '#3b8a4e'


def main() -> None:
    """Draws them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=DOCS, help='where the pictures go')
    parser.add_argument('--format', choices=('svg', 'png'), default='svg')
    args = parser.parse_args()
    plt.rcParams.update(
        {
            'svg.fonttype': 'none',
            'svg.hashsalt': 'mmint',
            'font.size': 9,
            'font.family': 'sans-serif',
        }
    )
    pages = {
        'numbers': (shared_exponent, shifted_mantissa, small_updates, layer),
        'deferred': (forward, backward),
    }
    for page, draw in ((page, draw) for page, draws in pages.items() for draw in draws):
        figure = draw()
        metadata = {'Date': None} if args.format == 'svg' else {}
        path = args.out / f'{page}_{draw.__name__}.{args.format}'
        figure.savefig(path, metadata=metadata, facecolor='white', dpi=110)
        plt.close(figure)
        print(path)


def shared_exponent() -> plt.Figure:
    """A small tensor on its grid at 4 bits: the largest element sets the unit for all."""
    x = torch.tensor([0.86, -0.31, 0.05, 0.47, -0.72, 0.012, 0.24, -0.13])
    mapped = reference.quantize(x, 4, RANDOM)
    unit = 2.0 ** int(mapped.exponent)
    figure, axes = plt.subplots(figsize=(7, 3.1), layout='constrained')
    for m in range(-7, 8):
        axes.axhline(m * unit, color='#dddddd' if m else GREY, lw=0.8, zorder=0)
    places = torch.arange(len(x))
    axes.bar(places, x, width=0.55, color=BLUE, alpha=0.35, label='float32 value')
    axes.scatter(
        places, mapped.mantissa * unit, marker='_', s=420, lw=3, color=ORANGE,
        label=r'mantissa $\times\,2^{exponent}$',
    )  # fmt: skip
    for i, m in enumerate(mapped.mantissa.tolist()):
        axes.annotate(f'{x[i]:.3g}\n$\\to$ {m}', (i, -1.27), ha='center', va='bottom', fontsize=8)
    axes.set(ylim=(-1.3, 1.2), ylabel='value', xticks=[], xlim=(-0.7, len(x) - 0.3))
    grid = axes.secondary_yaxis('right', functions=(lambda v: v / unit, lambda m: m * unit))
    grid.set_ylabel(f'mantissa, 4 bits; unit $2^{{{int(mapped.exponent)}}}$')
    grid.set_yticks(range(-7, 8, 2))
    axes.legend(loc='upper center', ncols=2, frameon=False)
    return figure


def shifted_mantissa() -> plt.Figure:
    """One element's bits: shifted by s, cut, and rounded by 16 random bits."""
    value, top, bits = 0.3, 0.86, 8
    magnitude = reference.mapping.split_sign(torch.tensor([value]))[1]
    field, mantissa = (int(t) for t in reference.mapping.fields(magnitude))
    exponent = int(reference.quantize(torch.tensor([top]), bits, None).exponent)
    shift = exponent + 150 - field
    digits = f'{mantissa:024b}'
    kept = 24 - shift
    figure, axes = plt.subplots(figsize=(7, 2.3), layout='constrained')
    axes.set(xlim=(-7.2, 25), ylim=(-3.5, 1.7))
    axes.axis('off')
    for i, digit in enumerate(digits):
        color = ORANGE if i < kept else BLUE if i < kept + 16 else GREY
        cell(axes, i, 0, digit, color)
    for i in range(16):
        cell(axes, kept + i, -1.5, 'r', GREEN)
    integer = mantissa >> shift
    for i, digit in enumerate(f'{integer:0{kept}b}'):
        cell(axes, i, -3.2, digit, ORANGE)
    for y, text in ((0, f'mantissa of {value}'), (-1.5, '+ 16 random bits'), (-3.2, 'kept')):
        axes.text(-0.5, y + 0.45, text, ha='right', va='center')
    axes.text(0, 1.15, f'24 bits; shift s = {shift}', fontsize=8)
    axes.text(
        kept + 0.6, -2.75,
        f'{integer}, or {integer + 1} where the sum carries over: with probability '
        f'{(mantissa & ((1 << shift) - 1)) / (1 << shift):.2f}',
        va='center', fontsize=8,
    )  # fmt: skip
    axes.plot([kept, kept], [-2.1, 1.3], color='black', lw=1.2, ls='--')
    return figure


def cell(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    """One bit."""
    axes.add_patch(Rectangle((x, y), 0.92, 0.92, facecolor=color, alpha=0.25, edgecolor=color))
    axes.text(x + 0.46, y + 0.44, text, ha='center', va='center', fontsize=8)


def small_updates() -> plt.Figure:
    """A weight that gradients push by 0.3 units each step: to nearest it never moves."""
    steps, step = 100, 0.3
    figure, axes = plt.subplots(figsize=(7, 2.8), layout='constrained')
    exact = [i * step for i in range(steps + 1)]
    axes.plot(exact, color=GREY, ls='--', label='exact sum', zorder=3)
    draws = torch.stack(
        [RANDOM._replace(iteration=i).draw(400)[::2] for i in range(steps)]
    )  # (step, run): neighbours share a draw
    runs = torch.cat([torch.zeros(1, 200), (draws < step * 2**16).float().cumsum(0)])
    axes.plot(runs[:, :6], color=BLUE, alpha=0.45, lw=1)
    axes.plot([], color=BLUE, label='stochastic, six runs')
    axes.plot(runs.mean(1), color=GREEN, label='stochastic, mean of 200 runs')
    axes.plot([0] * (steps + 1), color=ORANGE, label='to nearest')
    axes.set(xlabel='step, each adds 0.3 units', ylabel='mantissa', xlim=(0, steps))
    axes.legend(frameon=False, loc='upper left')
    return figure


def layer() -> plt.Figure:
    """What a convolution's three products read and write."""
    figure, axes = plt.subplots(figsize=(7, 3.3), layout='constrained')
    axes.set(xlim=(0, 14), ylim=(0, 6.6))
    axes.axis('off')
    for y, name in ((5.2, 'input'), (3.2, 'weight'), (1.2, 'incoming\ngradient')):
        box(axes, 0.2, y, name, 'float32', GREY)
        arrow(axes, (2.4, y + 0.45), (3.9, y + 0.45), 'map')
        box(axes, 3.9, y, name.replace('incoming\n', ''), 'int8, exponent', ORANGE)
    products = ((5.2, 'forward', (5.2, 3.2)), (3.2, 'input gradient', (3.2, 1.2)),
                (1.2, 'weight gradient', (5.2, 1.2)))  # fmt: skip
    for y, name, sources in products:
        box(axes, 8.0, y, name, 'int32 or int64 sums', BLUE, 2.7)
        for source in sources:
            arrow(axes, (6.1, source + 0.45), (8.0, y + 0.45))
        arrow(axes, (10.7, y + 0.45), (12.1, y + 0.45), 'round')
        result = {'forward': 'output'}.get(name, name.replace(' ', '\n'))
        box(axes, 12.1, y, result, 'float32', GREY, 1.8)
    return figure


FLOAT, INT8 = ('float32', 4, GREY), ('int8', 1, ORANGE)


def forward() -> plt.Figure:
    """From the sums of a convolution to the input of the next: what is in memory in between."""
    written = [
        (*FLOAT, 'conv'), 'map', (*INT8, 'X'), 'batch norm', (*FLOAT, ''), 'ReLU', (*FLOAT, ''),
        'map', (*INT8, 'conv'),
    ]  # fmt: skip
    waiting = r'$p\,X + r$, rounded to float32, cut at 0, mapped: in registers'
    return lanes(written, [(*FLOAT, 'conv'), 'map', (*INT8, 'X'), waiting, (*INT8, 'conv')])


def backward() -> plt.Figure:
    """The gradient on its way back, from one convolution to the one before it."""
    written = [
        (*FLOAT, 'conv'), 'ReLU', (*FLOAT, ''), 'map', (*INT8, 'G'), 'batch norm', (*FLOAT, ''),
        'map', (*INT8, 'conv'),
    ]  # fmt: skip
    waiting = r'$p\,G + q\,X + r$, rounded to float32, mapped'
    deferred = [(*FLOAT, 'conv'), 'masked, mapped', (*INT8, 'G'), waiting, (*INT8, 'conv')]
    return lanes(written, deferred)


def lanes(written: list[Any], deferred: list[Any]) -> plt.Figure:
    """What lies in memory, as high as its bytes, and what is done from one to the next.

    Two lanes of equal ends: where each operation writes its result, and where they wait.
    """
    figure, axes = plt.subplots(figsize=(7.4, 3.3), layout='constrained')
    axes.set(xlim=(-1.5, 13.2), ylim=(-0.9, 6.4))
    axes.axis('off')
    for y, title, lane in ((3.6, 'written', written), (0, 'deferred', deferred)):
        axes.text(-1.5, y + 1, title, va='center', fontweight='bold')
        named = [i for i, (*_, name) in enumerate(written[::2]) if name or lane is written]
        for (kind, size, color, name), i in zip(lane[::2], named, strict=True):
            box(axes, 2.9 * i, y, name, f'{kind}, {size} B', color, 1.1, size / 2)
        for text, i, j in zip(lane[1::2], named[:-1], named[1:], strict=True):
            arrow(axes, (2.9 * i + 1.1, y + 0.25), (2.9 * j, y + 0.25), text)
    return figure


def box(
    axes: Axes,
    x: float,
    y: float,
    name: str,
    kind: str,
    color: str,
    width: float = 2.2,
    height: float = 1,
) -> None:
    """A tensor or an operation."""
    patch = Rectangle((x, y - 0.05), width, height, facecolor=color, alpha=0.22, edgecolor=color)
    axes.add_patch(patch)
    axes.text(x + width / 2, y - 0.05 + height / 2, name, ha='center', va='center')
    axes.text(x + width / 2, y - 0.12, kind, ha='center', va='top', fontsize=7.5, color='#444444')


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = '') -> None:
    """From one box to another."""
    style: dict[str, Any] = dict(arrowstyle='-|>', mutation_scale=9, lw=0.9, color='#444444')
    axes.add_patch(FancyArrowPatch(start, end, shrinkA=1, shrinkB=1, **style))
    if text:
        middle = (start[0] + end[0]) / 2
        axes.text(middle, start[1] + 0.12, text, ha='center', fontsize=7.5, color='#444444')


if __name__ == '__main__':
    main()
