"""Trains a small Faster R-CNN on handwritten digits in float and in int8, and compares them.

Both runs have the same settings and the same seed; the int8 config adds three lines. The comparison
goes to ``work_dirs/quickstart``: ``summary.json``, ``summary.md`` and ``loss.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from mmint.backends import backend_for

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    'float': 'configs/quickstart/faster-rcnn_r18_fpn_digits.py',
    'int8': 'configs/quickstart/faster-rcnn_r18_fpn_int8_digits.py',
}
METRICS = {'bbox_mAP': 'mAP', 'bbox_mAP_50': 'AP50', 'bbox_mAP_75': 'AP75'}


def main() -> None:
    """Makes the data, trains twice, and writes and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'quickstart')
    parser.add_argument('--data-root', type=Path, default=ROOT / 'data' / 'digits')
    parser.add_argument('--images', type=int, nargs=2, metavar=('TRAIN', 'VAL'), default=(800, 200))
    parser.add_argument('--epochs', type=int, default=6)
    args = parser.parse_args()
    args.work_dir, args.data_root = args.work_dir.resolve(), args.data_root.resolve()

    run(
        'tools/make_digits.py',
        *('--out', str(args.data_root)),
        *('--train', str(args.images[0]), '--val', str(args.images[1])),
    )
    minutes, records = {}, {}
    for kind, config in CONFIGS.items():
        work_dir = args.work_dir / kind
        started = time.monotonic()
        run('tools/train.py', config, '--work-dir', str(work_dir), *overrides(args))
        minutes[kind] = (time.monotonic() - started) / 60
        records[kind] = read_records(work_dir)
    summary = summarise(records, minutes)
    (args.work_dir / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
    table = format_table(summary)
    (args.work_dir / 'summary.md').write_text(table)
    plot_losses(records, args.work_dir / 'loss.png')
    print(f'\n{table}\nIn {args.work_dir}: summary.json, summary.md, loss.png')


def run(script: str, *arguments: str) -> None:
    """Runs one of our tools, on the CPU; its failure ends this one."""
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    command = [sys.executable, script, *arguments]
    code = subprocess.run(command, cwd=ROOT, env=environment).returncode
    if code:
        raise SystemExit(f'{script} {" ".join(arguments)} failed with exit code {code}: see above')


def overrides(args: argparse.Namespace) -> list[str]:
    """The settings of both configs that depend on the arguments."""
    annotations = args.data_root / 'annotations'
    return [
        '--cfg-options',
        f'train_cfg.max_epochs={args.epochs}',
        f'train_cfg.val_interval={args.epochs}',
        f'train_dataloader.dataset.data_root={args.data_root}/',
        f'val_dataloader.dataset.data_root={args.data_root}/',
        f'val_evaluator.ann_file={annotations}/val.json',
    ]


def read_records(work_dir: Path) -> list[dict]:
    """What the run that was last in ``work_dir`` logged, a record for each logged iteration."""
    newest = max(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for line in newest.read_text().splitlines()]


def summarise(records: dict[str, list[dict]], minutes: dict[str, float]) -> dict:
    """The final metrics of both runs, the backend and the minutes."""
    summary = {}
    for kind in CONFIGS:
        final = [r for r in records[kind] if 'coco/bbox_mAP' in r][-1]
        summary[kind] = {key: final[f'coco/{key}'] for key in METRICS}
    summary['backend'] = backend_for(torch.device('cpu')).name
    summary['train_minutes'] = {kind: round(value, 2) for kind, value in minutes.items()}
    return summary


def format_table(summary: dict) -> str:
    """The summary as a Markdown table, in per cent."""
    lines = [
        f'| | {" | ".join(METRICS.values())} | minutes |',
        '|---|' + '---:|' * (len(METRICS) + 1),
    ]
    for kind, label in (('float', 'float32'), ('int8', f'int8 ({summary["backend"]} backend)')):
        cells = [f'{100 * summary[kind][key]:.1f}' for key in METRICS]
        lines.append(f'| {label} | {" | ".join(cells)} | {summary["train_minutes"][kind]:.1f} |')
    gaps = [f'{100 * (summary["int8"][key] - summary["float"][key]):+.1f}' for key in METRICS]
    gap = summary['train_minutes']['int8'] - summary['train_minutes']['float']
    lines.append(f'| difference | {" | ".join(gaps)} | {gap:+.1f} |')
    return '\n'.join(lines) + '\n'


def plot_losses(records: dict[str, list[dict]], path: Path) -> None:
    """Both loss curves in one picture."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), dpi=120, layout='constrained')
    for kind, style in (('float', '-'), ('int8', '--')):
        points = [(r['step'], r['loss']) for r in records[kind] if 'loss' in r]
        axes.plot(*zip(*points, strict=True), style, label=kind)
    axes.set(xlabel='iteration', ylabel='training loss', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
    plt.close(figure)


if __name__ == '__main__':
    main()
