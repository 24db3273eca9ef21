"""Takes a training step of stock configs, in float and in int8 from equal weights.

python tools/sweep.py --out sweep.jsonl [--each 1] [--only PATTERN]    takes the steps
python tools/sweep.py --out sweep.jsonl --page docs/compatibility.md   writes what came of them

Of every folder of mmdet's, mmseg's and mmpretrain's configs it takes the smallest that train, as
their names tell. Each runs in a process of its own, with limits of time and memory, and appends a
line of JSON; a sweep that is started again goes on with what is not there yet. The synthetic step
and the audit are those of `audit.py`; here the first step is audited.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import multiprocessing
import os
import re
import resource
import time
import traceback
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sweep_page
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from stock_configs import chosen, shipped
from synthetic_batch import parts, type_name
from synthetic_step import Step

from mmint.analysis import Recorder
from mmint.analysis.float_operations import KINDS
from mmint.analysis.report import Report
from mmint.openmmlab.engine.runner import to_integer

IMAGES = 2
REGIONS = 64  # of an image, at most, that heads and proposal networks learn from
# Sizes of images, one after another until one runs in float; None is the pipeline's own.
SIZES = {
    'mmdet': [(128, 128), (320, 320)],
    'mmseg': [(128, 128), (512, 512)],
    'mmpretrain': [None],
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, required=True, help='a line of JSON for each config')
    parser.add_argument('--each', type=int, default=1, help='configs of each folder')
    parser.add_argument('--only', default='', help='a pattern in package::folder/name.py')
    parser.add_argument('--seconds', type=int, default=90, help='for each of the two')
    parser.add_argument('--memory', type=int, default=10, help='GB')
    parser.add_argument('--page', type=Path, help='write this page, take no steps')
    return parser.parse_args()


def main() -> None:
    """Sweeps, or writes the page."""
    args = parse_args()
    known = read(args.out)
    if args.page:
        args.page.write_text(sweep_page.page(known))
        return
    for package in SIZES:
        for room in ('models', 'datasets'):  # once, for all the processes
            importlib.import_module(f'{package}.{room}')
    done = {result['config'] for result in known}
    left = [name for name in chosen(SIZES, args.each, args.only) if name not in done]
    started = time.monotonic()
    for number, name in enumerate(left, 1):
        result = dict(config=name, **run(name, args.seconds, args.memory))
        with args.out.open('a') as file:
            file.write(json.dumps(result) + '\n')
        remaining = (time.monotonic() - started) / number * (len(left) - number) / 60
        print(
            f'{number}/{len(left)}, {remaining:.0f} min left: {sweep_page.line(result)}', flush=True
        )


def read(path: Path) -> list[dict]:
    """What was found so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(name: str, seconds: int, memory: int) -> dict[str, Any]:
    """What came of a config, in a process of its own."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context('fork').Process(target=both, args=(name, memory, theirs))
    process.start()
    theirs.close()
    found: dict[str, Any] = {}
    try:
        for _ in ('float', 'int8'):
            if not ours.poll(seconds):
                found |= {'int8' if 'float' in found else 'float': failed(f'over {seconds} s')}
                break
            found |= ours.recv()
    except EOFError:
        process.join()
        if not found or 'error' not in found['float']:
            reason = f'the process ended with {process.exitcode}'
            found |= {'int8' if 'float' in found else 'float': failed(reason)}
    process.kill()
    process.join()
    return found


def failed(reason: str) -> dict[str, str]:
    """A result that is none."""
    return dict(error=reason)


def both(name: str, memory: int, connection: Connection) -> None:
    """Sends what came of the float step, and if it ran, of the int8 step."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory * 10**9,) * 2)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    package, config = name.split('::')
    os.chdir(shipped(package))  # where the paths of teachers' configs begin
    for size in SIZES[package]:
        result = attempt(config, 'float', size)
        if 'error' not in result:
            break
    connection.send(dict(float=result, size=size))
    if 'error' not in result:
        connection.send(dict(int8=attempt(config, 'int8', size)))


def attempt(config: str, kind: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """The first step's loss, and of int8 the audit."""
    started = time.monotonic()
    try:
        cfg = Config.fromfile(Path('configs', config))
        if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':  # float is float32
            for setting in inspect.signature(AmpOptimWrapper).parameters:
                cfg.optim_wrapper.pop(setting, None)
            cfg.optim_wrapper.type = 'OptimWrapper'
        for part in parts(cfg.model):
            if type_name(part).endswith('Sampler') and part.get('num', 0) > REGIONS:
                part['num'] = REGIONS
        step = Step(to_integer(cfg) if kind == 'int8' else cfg, IMAGES, size)
        if kind == 'float':
            result = dict(loss=float(step()['loss']))
        else:
            with Recorder(step.model) as recorder:
                result = dict(loss=float(step()['loss']))
            result |= audited(recorder.report)
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f'{"/".join(Path(place.filename).parts[-2:])}:{place.lineno}'
        message = re.sub(r'\S*site-packages/', '', ' '.join(str(error).split()))[:120]
        return failed(f'{type(error).__name__}: {message} ({where})')
    return result | dict(seconds=round(time.monotonic() - started, 1))


def audited(report: Report) -> dict[str, Any]:
    """The integer share, with and without the optimizer, and the most of what is float."""
    kinds = [kind for kind in KINDS if kind != 'optimizer']
    parts: dict[tuple, int] = defaultdict(int)
    for operation in report.float_operations:
        if operation.kind in kinds:
            module = re.sub(r'\.\d+', '.*', operation.module)
            parts[operation.reason, operation.operator, module] += operation.multiply_adds
    total = sum(
        report.multiply_adds(kind, phase, arithmetic)
        for kind in kinds
        for phase in ('forward', 'backward')
        for arithmetic in ('integer', 'float')
    )
    most = sorted(parts.items(), key=lambda item: -item[1])[:20]
    return dict(
        share=report.share(kinds),
        share_with_optimizer=report.share(),
        remains=[[*key, work / total] for key, work in most],
    )


if __name__ == '__main__':
    main()
