"""Trains a config in float and in integers with several seeds, and says how far apart they are.

Both configs are trained and evaluated by ``tools/train.py``, one seed after the other, in
``WORK_DIR/float-SEED`` and ``WORK_DIR/integer-SEED``. Stopped and called again, it goes on where it
was. ``WORK_DIR/compare.html`` is the comparison as one file that needs no network,
``WORK_DIR/compare.json`` has its numbers; both are written anew after each pair.

With ``--float-runs`` and ``--integer-runs`` it trains nothing and compares work folders that there
are, the first with the first and so on.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from compare_page import write_page
from mmengine.config import Config, DictAction
from paired_runs import Comparison
from run_folder import FINISHED, read_run

import mmint  # noqa: F401  configs may inherit mmint::_base_/int8.py

TOOLS = Path(__file__).resolve().parent
KINDS = 'float', 'integer'
LOG = 'compare.log'  # what train.py printed
SETTINGS = 'settings.json'
ETA = re.compile(r'eta: (?:(\d+) days?, )?(\d+):(\d+):(\d+)')  # in mmengine's log


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='the float, the integer one')
    parser.add_argument('--seeds', type=int, default=3, help='how many: 0 to SEEDS - 1')
    parser.add_argument(
        '--work-dir', type=Path, help='work_dirs/compare/INTEGER_CONFIG unless given'
    )
    parser.add_argument('--float-runs', type=Path, nargs='+', default=[], metavar='FOLDER')
    parser.add_argument('--integer-runs', type=Path, nargs='+', default=[], metavar='FOLDER')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='for both, as for train.py')
    args = parser.parse_args()
    runs = len(args.float_runs), len(args.integer_runs)
    if len(args.configs) != (0 if any(runs) else 2) or runs[0] != runs[1] or args.seeds < 1:
        parser.error(
            f'{len(args.configs)} configs, {args.seeds} seeds and {runs[0]} and {runs[1]} folders '
            'were given: give a float and an integer config and 1 seed or more, or no config and '
            'as many --float-runs as --integer-runs'
        )
    if args.work_dir is None:
        name = Path(args.configs[1]).stem if args.configs else args.integer_runs[0].name
        args.work_dir = Path('work_dirs') / 'compare' / name
    return args


def main() -> None:
    """Trains what is not trained yet, and compares."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped: call it again to go on'))
    args = parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    with open(args.work_dir / 'lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(
                f'{args.work_dir} was given, in which another comparison is running, one that is '
                'not in use is accepted: wait for it, or give another --work-dir'
            ) from None
        if args.configs:
            comparison = Trainings(args, lock.fileno()).run()
        else:
            pairs = zip(args.float_runs, args.integer_runs, strict=True)
            comparison = Comparison([(read_run(one), read_run(other)) for one, other in pairs])
            write(comparison, args.work_dir)
    print(f'\n{comparison.to_text()}\n\nIn {args.work_dir}: compare.html, compare.json')


def write(comparison: Comparison, folder: Path) -> None:
    """Writes both files."""
    (folder / 'compare.json').write_text(json.dumps(comparison.to_json(), indent=2) + '\n')
    write_page(comparison, folder)


class Trainings:
    """The trainings of one comparison.

    Args:
        args: the command line.
        lock: a file descriptor that holds the lock, which trainings hold with us: a training goes
            on where its parent was killed.
    """

    def __init__(self, args: argparse.Namespace, lock: int) -> None:
        self.folder, self.options, self.lock = args.work_dir, args.cfg_options, lock
        self.configs = dict(zip(KINDS, args.configs, strict=True))
        self.seeds = range(args.seeds)
        self.seconds: dict[str, float] = {}  # of the last run of each kind
        self.todo = [
            (kind, seed)
            for seed in self.seeds
            for kind in KINDS
            if not (self.run_folder(kind, seed) / FINISHED).exists()
        ]
        self._check_settings()

    def run(self) -> Comparison:
        """Trains all that is to do, and returns the comparison."""
        while self.todo:
            kind, seed = self.todo[0]
            self._train(kind, seed)
            self.todo.pop(0)
            if self.todo and seed in self._done():
                write(self._comparison(), self.folder)
        comparison = self._comparison()
        write(comparison, self.folder)
        return comparison

    def run_folder(self, kind: str, seed: int) -> Path:
        """The work folder of a run."""
        return self.folder / f'{kind}-{seed}'

    def _done(self) -> list[int]:
        """The seeds of the pairs that are whole."""
        return [seed for seed in self.seeds if seed not in {other for _, other in self.todo}]

    def _comparison(self) -> Comparison:
        seeds = self._done()
        pairs = [[read_run(self.run_folder(kind, seed)) for kind in KINDS] for seed in seeds]
        return Comparison([(one, other) for one, other in pairs], seeds)

    def _check_settings(self) -> None:
        """Runs of other settings are not compared with these."""
        path = self.folder / SETTINGS
        settings = dict(configs=self.configs, cfg_options=self.options)
        if path.exists() and json.loads(path.read_text()) != settings:
            raise SystemExit(
                f'{self.folder} was given, which has runs of other settings, '
                f'{path.read_text().strip()}, an empty folder or one of the same is accepted: give '
                'another --work-dir'
            )
        path.write_text(json.dumps(settings) + '\n')

    def _train(self, kind: str, seed: int) -> None:
        """Trains and evaluates one run, or the rest of one."""
        folder = self.run_folder(kind, seed)
        folder.mkdir(exist_ok=True)
        options = ['--cfg-options', f'randomness.seed={seed}', *self.options]
        arguments = [self.configs[kind], '--work-dir', str(folder)]
        started = time.monotonic()
        if (folder / 'last_checkpoint').exists():
            arguments.append('--resume')
        memory = self._call('train.py', [*arguments, *options], kind, seed)
        run = read_run(folder)
        if not run.metrics:  # stopped in its evaluation, or a config without one at the end
            config = self._evaluation(kind, folder)
            self._call('test.py', [config, str(run.checkpoint()), *arguments[1:3]], kind, seed)
        self.seconds[kind] = time.monotonic() - started
        (folder / FINISHED).write_text(json.dumps(dict(peak_memory=memory)) + '\n')

    def _evaluation(self, kind: str, folder: Path) -> str:
        """A config of a run whose test is the validation of its training."""
        cfg = Config.fromfile(self.configs[kind])
        cfg.merge_from_dict(config_options(self.options))
        if cfg.get('val_dataloader'):
            cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
        path = folder / 'evaluation.py'
        cfg.dump(path)
        return str(path)

    def _call(self, tool: str, arguments: list[str], kind: str, seed: int) -> float:
        """Runs a tool, showing how far it is; returns the most memory it had, in MB."""
        folder = self.run_folder(kind, seed)
        log = folder / LOG
        started = time.monotonic()
        with open(log, 'ab') as out:
            process = subprocess.Popen(
                [sys.executable, str(TOOLS / tool), *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=[self.lock],
            )
            offset = out.tell()
            shown = -60.0
            try:
                while True:
                    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                    elapsed = time.monotonic() - started
                    if elapsed - shown >= (2 if sys.stdout.isatty() else 60):
                        shown = elapsed
                        show(f'seed {seed}, {kind}: {self._left(kind, elapsed, log, offset)}')
                    if pid:
                        break
                    time.sleep(0.5)
            except BaseException:
                process.terminate()
                raise
        process.returncode = os.waitstatus_to_exitcode(status)
        show(f'seed {seed}, {kind}: {tool} took {duration(time.monotonic() - started)}', end='\n')
        if process.returncode:
            last = log.read_text(errors='replace').strip().splitlines()[-1:]
            raise SystemExit(
                f'{tool} failed with exit code {process.returncode}: {"".join(last)}\n'
                f'All that it said is in {log}; called again, this comparison goes on.'
            )
        return usage.ru_maxrss / 1024

    def _left(self, kind: str, elapsed: float, log: Path, offset: int) -> str:
        """How much time is left of this run and of all, by the run's own estimate."""
        with open(log, 'rb') as file:
            file.seek(max(offset, log.stat().st_size - 8192))
            found = ETA.findall(file.read().decode(errors='replace'))
        if not found:
            return 'starting'
        days, hours, minutes, seconds = (int(part or 0) for part in found[-1])
        left = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        known = {**self.seconds, kind: elapsed + left}
        others = sum(known.get(other, known[kind]) for other, _ in self.todo[1:])
        return f'{duration(left)} left, {duration(left + others)} in all'


def config_options(options: list[str]) -> dict[str, Any]:
    """What ``--cfg-options`` says, as train.py reads it."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args(['--cfg-options', *options] if options else []).cfg_options


def duration(seconds: float) -> str:
    """As people say it."""
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 2:
        return f'{hours:.1f} h'
    return f'{minutes:.0f} min' if minutes >= 2 else f'{seconds:.0f} s'


def show(text: str, end: str = '') -> None:
    """Shows a line in place of the last on a terminal, else one after the other."""
    if sys.stdout.isatty():
        print(f'\r\x1b[K{text}', end=end, flush=True)
    else:
        print(text, flush=True)


if __name__ == '__main__':
    main()
