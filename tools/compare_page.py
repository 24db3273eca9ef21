"""The page of a comparison: one HTML file with its charts and pictures inside."""

from __future__ import annotations

import base64
import html
import io
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from mmengine.config import Config
from paired_runs import Comparison, cells
from PIL import Image
from run_folder import Run

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

TOOLS = Path(__file__).resolve().parent
STYLES = (  # of float and integer
    dict(color='#1f5fa8', linestyle='-', label='float'),
    dict(color='#d1541f', linestyle='--', label='integer'),
)
POINTS = 300  # of a curve; more are averaged
PICTURES = 4
DRAWN = dict(mmdet='detections', mmseg='segmentations')  # what draw_predictions.py accepts
TEXT = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'mmint',
    'font.family': 'sans-serif',
    'font.size': 11,
    'axes.spines.top': False,
    'axes.spines.right': False,
}
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.45 system-ui, sans-serif; color: #1b1f24; background: #fff;
  max-width: 1180px; margin: 0 auto; padding: 16px; }}
h1 {{ font-size: 1.1rem; font-weight: 600; color: #57606a; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.1rem; margin: 0 0 4px; }}
.answer {{ font-size: 1.5rem; line-height: 1.25; font-weight: 650; margin: 10px 0 4px; }}
.charts {{ display: grid; gap: 24px; margin: 20px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }}
.charts > * {{ min-width: 0; }}
@media (min-width: 1100px) {{ .first {{ grid-template-columns: max-content 1fr; }} }}
svg {{ width: 100%; height: auto; display: block; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 4px 12px 4px 0; text-align: right; white-space: nowrap; }}
th {{ font-weight: 600; border-bottom: 1px solid #8c959f; white-space: normal;
  vertical-align: bottom; }}
th:first-child, td:first-child {{ text-align: left; }}
tr.main td {{ font-weight: 650; }}
td {{ border-bottom: 1px solid #e3e6ea; }}
p {{ margin: 6px 0; max-width: 72ch; }}
.note {{ color: #57606a; font-size: .9rem; overflow-wrap: anywhere; }}
img {{ width: 100%; min-width: 640px; display: block; }}
section {{ margin: 28px 0; }}
@media (max-width: 600px) {{
  .answer {{ font-size: 1.2rem; }}
  th, td {{ padding-right: 6px; font-size: .8rem; white-space: normal; }}
}}
</style>
<h1>{title}</h1>
<p class="answer">{answer}</p>
<p>{worth}</p>
<div class="charts first">
<div><div class="wide">{table}</div>
<p class="note">Mean ± standard deviation of the runs. Differences are integer minus float, of runs
with the same seed; those of loss, time and memory are in per cent of float's.</p></div>
<div><h2>Difference in {metric}, points</h2>{differences}</div>
</div>
<div class="charts">
<div><h2>Training loss</h2>{losses}</div>
<div><h2>{metric} over time</h2>{metrics}</div>
</div>
<div class="charts">
<div><h2>Each seed</h2><div class="wide">{seeds}</div></div>
<div><h2>How many seeds would show a difference</h2>{needed}</div>
</div>
{pictures}
<p class="note">{folders}</p>
</html>
"""


def write_page(comparison: Comparison, folder: Path) -> None:
    """Writes ``compare.html``; the predictions are those of the first pair."""
    answer, worth = comparison.answer()
    metric = comparison.metrics[0].name
    folders = ', '.join(str(run.folder) for pair in comparison.pairs for run in pair)
    values = dict(
        title=html.escape(f'{folder.name}: float and integer training'),
        answer=_minus(html.escape(answer)),
        worth=html.escape(worth),
        metric=html.escape(metric),
        table=_table(
            ('', 'float', 'integer', 'difference', '95 % interval'), map(cells, comparison.rows)
        ),
        differences=_chart(lambda axes: _differences(axes, comparison), height=2.4),
        losses=_chart(lambda axes: _losses(axes, comparison)),
        metrics=_chart(lambda axes: _metrics(axes, comparison)),
        seeds=_seeds(comparison),
        needed=_needed(comparison),
        pictures=_pictures(comparison),
        folders=html.escape(f'Runs: {folders}'),
    )
    (folder / 'compare.html').write_text(PAGE.format(**values))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = ''.join(f'<th>{html.escape(cell)}</th>' for cell in header)
    body = ''.join(
        f'<tr{"" if i else " class=main"}>'
        + ''.join(f'<td>{_minus(html.escape(cell))}</td>' for cell in row)
        + '</tr>\n'
        for i, row in enumerate(rows)
    )
    return f'<table>\n<tr>{head}</tr>\n{body}</table>'


def _minus(text: str) -> str:
    return re.sub(r'-(?=\d)', '\N{MINUS SIGN}', text)


def _seeds(comparison: Comparison) -> str:
    """The main metric, the loss and the time of each run."""
    shown = [comparison.metrics[0], comparison.loss, comparison.costs[0]]
    header = [
        'seed',
        *(
            f'{row.name.split(",")[0].removeprefix("training ")} {kind}'
            for row in shown
            for kind in ('float', 'integer')
        ),
    ]
    rows = [
        [str(seed), *(f'{values[i]:.{row.digits}f}' for row in shown for values in row.values)]
        for i, seed in enumerate(comparison.seeds)
    ]
    return _table(header, rows).replace(' class=main', '')


def _needed(comparison: Comparison) -> str:
    needed = comparison.needed()
    if not needed:
        return '<p>It takes two pairs or more to say.</p>'
    rows = [(f'{step:g}', str(pairs or 'more than 1,000')) for step, pairs in needed]
    return (
        _table(('true difference, points', 'seeds'), rows).replace(' class=main', '')
        + '<p class="note">So many pairs put zero outside the 95 % interval four times in five, if '
        'pairs go on to spread as these do.</p>'
    )


def _chart(draw: Callable[[Axes], None], height: float = 3.2) -> str:
    """What ``draw`` draws, as SVG that is as wide as its place."""
    with plt.rc_context(TEXT):
        figure, axes = plt.subplots(figsize=(5.2, height), layout='constrained')
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format='svg', transparent=True, metadata=dict(Date=None))
        plt.close(figure)
    svg = out.getvalue()
    svg = svg[svg.index('<svg') :]
    return re.sub(r'^<svg ([^>]*?)height="[^"]*" ([^>]*?)width="[^"]*" ', r'<svg \1\2', svg)


def _differences(axes: Axes, comparison: Comparison) -> None:
    """A dot a pair, and the interval of their mean."""
    row = comparison.metrics[0]
    found = row.difference
    axes.axvline(0, color='#57606a', linewidth=1)
    axes.plot(row.differences, [0] * found.pairs, 'o', color='#d1541f', alpha=0.65, markersize=8)
    if found.low is not None:
        axes.plot([found.low, found.high], [1, 1], color='#1b1f24', linewidth=3)
        axes.plot(found.mean, 1, 'D', color='#1b1f24', markersize=7)
    axes.set(
        ylim=(-0.6, 1.6),
        yticks=[0, 1] if found.pairs > 1 else [0],
        yticklabels=['pairs of\nruns', 'mean, 95 %\ninterval'][: min(2, found.pairs)],
        xlabel='points; left of 0 integer is behind',
    )
    axes.tick_params(axis='y', length=0)
    axes.spines['left'].set_visible(False)
    axes.margins(x=0.12)


def _losses(axes: Axes, comparison: Comparison) -> None:
    """Every run thin, the mean of each kind bold: figure 3c of the paper."""
    for runs, style in zip(comparison.runs, STYLES, strict=True):
        _curves(axes, [run.losses for run in runs], style)
    curves = [run.losses for runs in comparison.runs for run in runs]
    highest = max(loss for curve in curves for _, loss in curve[len(curve) // 50 :])
    axes.set(xlabel='iteration', ylim=(0, 1.05 * highest))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def _metrics(axes: Axes, comparison: Comparison) -> None:
    """The main metric at each evaluation."""
    name = comparison.main_name
    for runs, style in zip(comparison.runs, STYLES, strict=True):
        curves = [[(step, found[name]) for step, found in run.evaluations] for run in runs]
        _curves(axes, curves, dict(style, marker='o', markersize=4))
    axes.set(xlabel='iteration', xlim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def _curves(axes: Axes, curves: list[list[tuple[int, float]]], style: dict) -> None:
    curves = [_binned(curve) for curve in curves]
    if len(curves) > 1:
        for curve in curves:
            axes.plot(
                *zip(*curve, strict=True), **dict(style, alpha=0.3, linewidth=0.8, label=None)
            )
    steps = sorted(set.intersection(*(set(dict(curve)) for curve in curves)))
    mean = [statistics.fmean(dict(curve)[step] for curve in curves) for step in steps]
    axes.plot(steps, mean, **dict(style, linewidth=2))


def _binned(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `POINTS` points, each the mean of those that follow one another."""
    size = -(-len(curve) // POINTS)
    parts = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(part[-1][0], statistics.fmean(value for _, value in part)) for part in parts]


def _pictures(comparison: Comparison) -> str:
    """Predictions of the first pair on the first images of the evaluation."""
    runs = comparison.pairs[0]
    try:
        strips = [_strip(run) for run in runs]
    except NotDrawn as error:
        return f'<section><h2>Predictions</h2><p>{html.escape(str(error))}</p></section>'
    drawn = ''.join(
        f'<p>{kind}</p><div class="wide"><img alt="predictions, {kind}" src="{strip}"></div>'
        for kind, strip in zip(('float', 'integer'), strips, strict=True)
    )
    return f'<section><h2>Predictions, seed {comparison.seeds[0]}</h2>{drawn}</section>'


class NotDrawn(Exception):
    """Why there are no pictures."""


def _strip(run: Run) -> str:
    """Pictures of a run's predictions side by side, as a data URI; drawn again if it trained on."""
    checkpoint, path = run.checkpoint(), run.folder / 'predictions.png'
    configs = sorted(run.folder.glob('*/vis_data/config.py'))
    if checkpoint is None or not checkpoint.exists() or not configs:
        raise NotDrawn(f'Not drawn: {run.folder} has no checkpoint or no config.')
    cfg = Config.fromfile(configs[-1])
    if cfg.get('default_scope') not in DRAWN:
        raise NotDrawn(f'Only {" and ".join(DRAWN.values())} are drawn.')
    if path.exists() and path.stat().st_mtime > checkpoint.stat().st_mtime:
        return _data(path)
    command = [sys.executable, str(TOOLS / 'draw_predictions.py'), str(configs[-1])]
    done = subprocess.run(
        [*command, str(checkpoint), *_images(cfg), '--out', str(path), '--height', '192'],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NotDrawn(f'draw_predictions.py failed: {"".join(done.stderr.splitlines()[-1:])}')
    return _data(path)


def _data(path: Path) -> str:
    """A picture as a data URI."""
    out = io.BytesIO()
    Image.open(path).convert('RGB').save(out, 'JPEG', quality=85)
    return f'data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}'


def _images(cfg: Config) -> list[str]:
    """The files of the first images that the run was evaluated on."""
    from mmengine.registry import DATASETS, init_default_scope

    init_default_scope(cfg.default_scope)
    loader = cfg.get('val_dataloader') or cfg.test_dataloader
    try:
        dataset = DATASETS.build(loader.dataset)
    except FileNotFoundError as error:
        raise NotDrawn(f'Not drawn: {error}.') from error
    return [dataset.get_data_info(i)['img_path'] for i in range(min(PICTURES, len(dataset)))]
