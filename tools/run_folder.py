"""What a run of OpenMMLab's runner left in its work folder: losses, metrics, seconds, memory.

Each start of a run, so each resumption, has a folder of its own, named by the time, with
``vis_data/scalars.json``: a record a line, of training or of an evaluation. What ``tools/test.py``
found is in ``TIME/TIME.json``.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FRACTIONS = 'coco/', 'pascal_voc/', 'lvis/', 'cityscapes/'  # logged as parts of 1
NO_METRICS = {'data_time', 'time', 'step', 'epoch', 'iter', 'memory', 'lr', 'loss'}
MAIN_METRICS = 'coco/bbox_mAP', 'pascal_voc/mAP', 'mIoU', 'accuracy/top1'
FINISHED = 'finished.json'  # written by compare.py


@dataclass
class Run:
    """One run, whole: what a resumption did again counts once.

    Attributes:
        losses: iteration and training loss, as logged.
        evaluations: the iteration logged before each, and the metrics, in per cent where the log
            has parts of 1.
        seconds: of the training iterations.
        peak_memory: in MB: PyTorch's on a GPU, else the process's if compare.py ran it.
    """

    folder: Path
    losses: list[tuple[int, float]] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    seconds: float = 0
    peak_memory: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Those of the last evaluation; empty if there is none after the last logged iteration."""
        if not self.evaluations or self.evaluations[-1][0] < self.iteration:
            return {}
        return self.evaluations[-1][1]

    @property
    def iteration(self) -> int:
        """The last that was logged."""
        return self.losses[-1][0] if self.losses else 0

    def last_loss(self) -> float:
        """The mean training loss over the last sixth of the iterations."""
        start = self.iteration * 5 / 6
        return statistics.fmean(loss for step, loss in self.losses if step > start)

    def checkpoint(self) -> Path | None:
        """The last one, wherever the folder was moved."""
        named = self.folder / 'last_checkpoint'
        return self.folder / Path(named.read_text().strip()).name if named.exists() else None


def read_run(folder: Path) -> Run:
    """Reads a work folder; one without records gives a run without any."""
    run, times, memory = Run(folder), {}, []
    for record in _records(folder):
        if 'loss' in record:
            step = record['step']
            run.losses = [(s, loss) for s, loss in run.losses if s < step]
            run.evaluations = [(s, found) for s, found in run.evaluations if s < step]
            times = {s: seconds for s, seconds in times.items() if s < step}
            run.losses.append((step, record['loss']))
            times[step] = record.get('time', 0.0)
            memory.append(record.get('memory', 0))
        elif metrics := _metrics(record):
            run.evaluations.append((run.iteration, metrics))
    before = [0, *times]
    run.seconds = sum(
        (step - last) * seconds
        for (step, seconds), last in zip(times.items(), before, strict=False)
    )
    finished = folder / FINISHED
    if any(memory):
        run.peak_memory = float(max(memory))
    elif finished.exists():
        run.peak_memory = json.loads(finished.read_text())['peak_memory']
    return run


def main_metric(names: list[str]) -> str:
    """The one that a comparison is about."""
    return next((name for name in MAIN_METRICS if name in names), names[0])


def _records(folder: Path) -> Iterator[dict]:
    """All records, in the order of time."""
    for start in sorted(path for path in folder.glob('[0-9]*_[0-9]*') if path.is_dir()):
        scalars, tested = start / 'vis_data' / 'scalars.json', start / f'{start.name}.json'
        if scalars.exists():
            for line in scalars.read_text().splitlines():
                try:
                    yield json.loads(line)
                except ValueError:  # half a line: the run is writing, or was stopped
                    continue
        if tested.exists():
            yield json.loads(tested.read_text())


def _metrics(record: dict) -> dict[str, float]:
    """The numbers that an evaluation found; -1 is the COCO metric's word for none."""
    return {
        name: 100 * value if name.startswith(FRACTIONS) else value
        for name, value in record.items()
        if name not in NO_METRICS and isinstance(value, int | float) and value != -1
    }
