"""`benchmark.py train`: whole training steps of one config, int8 beside float.

Both models come from the same config and see the same synthetic batch; a step is everything from
the data preprocessor to the optimizer. The two are timed in turn, and the medians reported. Peak
memory is what PyTorch's allocator held at most during one step, above what it held before: the idle
model and its optimizer state. Buffers that the C kernels and oneDNN
allocate themselves, some tens of MB at most, are in neither number.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from synthetic_step import Step, load_config
from torch.profiler import ProfilerActivity, profile

from mmint.hooks.int_runner import to_integer


def run(
    config: str, batch: int, size: tuple[int, int], repeats: int, threads: int, bits: int
) -> dict:
    """Times and measures int8 and float training steps of ``config``.

    Returns:
        ``int8_ms``, ``float_ms``, ``ratio``, ``int8_peak_mb``, ``float_peak_mb`` and the settings.
    """
    torch.set_num_threads(threads)
    cfg = load_config(config)
    cfg.integer = {**cfg.get('integer', {}), 'bits': bits}
    steps = {}
    for kind, its_cfg in (('int8', to_integer(cfg)), ('float', cfg)):
        torch.manual_seed(0)
        steps[kind] = Step(its_cfg, batch, size)
        steps[kind]()  # fills the optimizer's state
    times = {kind: [] for kind in steps}
    for _ in range(repeats):
        for kind, step in steps.items():
            started = time.perf_counter()
            step()
            times[kind].append(1e3 * (time.perf_counter() - started))
    result = {f'{kind}_ms': round(statistics.median(times[kind]), 1) for kind in steps}
    result['ratio'] = round(result['float_ms'] / result['int8_ms'], 3)
    for kind, step in steps.items():
        result[f'{kind}_peak_mb'] = round(peak_memory(step) / 2**20, 1)
    return dict(config=config, batch=batch, size=size, threads=threads, bits=bits, **result)


def peak_memory(step: Step) -> int:
    """Bytes that PyTorch's allocator held at most during a step, above those before it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        step()
        trace = Path(folder) / 'trace.json'
        profiler.stop()
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())['traceEvents']
    held = peak = 0
    for event in sorted((e for e in events if e['name'] == '[memory]'), key=lambda e: e['ts']):
        held += event['args']['Bytes']
        peak = max(peak, held)
    return peak
