"""`benchmark.py train`: whole training steps of one config, int8 beside float.

Both models come from the same config and see the same synthetic batch; a step is everything from
the data preprocessor to the optimizer. The two are timed in turn, and the medians reported. Peak
memory is what PyTorch's allocator held at most during one step, above what it held before: the idle
model and its optimizer state. Buffers that the C kernels and oneDNN
allocate themselves, some tens of MB at most, are in neither number.

On a GPU float is float32, TF32 and mmengine's AMP in bf16, as `benchmarks.gpu` has them: the last
two channels-last, cuDNN's fastest algorithms, medians of steps timed by CUDA events.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from synthetic_step import Step, load_config
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmint.openmmlab.engine.runner import to_integer

from . import ops
from .gpu import FLOATS, alternate, gpu, in_precision
from .results import save


def run(
    config: str,
    batch: int,
    size: tuple[int, int] | None,
    repeats: int,
    threads: int,
    bits: int,
    device: str = 'cpu',
    file: str | None = None,
) -> dict:
    """Times and measures int8 and float training steps of ``config``.

    Returns:
        ``int8_ms``, ``float_ms``, ``ratio``, ``int8_peak_mb``, ``float_peak_mb`` and the settings,
        ``size`` what the images have.
        On a GPU ``float`` is each of `benchmarks.gpu.FLOATS`, ``ratio`` is ``times_float``, and the
        settings have the ``card``. ``file`` gets it as JSON, on a GPU each peak as it is known.
    """
    torch.set_num_threads(threads)
    card = gpu() if device == 'cuda' else None
    cfg = load_config(config)
    cfg.integer = {**cfg.get('integer', {}), 'bits': bits}
    result = dict(config=config, batch=batch, threads=threads, bits=bits)
    measured = (
        on_cpu(cfg, batch, size, repeats)
        if card is None
        else on_gpu(cfg, batch, size, repeats, card)
    )
    for part in measured:
        result |= part
        save(result, file)
    return result


def on_cpu(cfg: Config, batch: int, size: tuple[int, int] | None, repeats: int) -> Iterator[dict]:
    """Times, then peaks, on the CPU."""
    steps = step_pair(cfg, batch, size)
    yield dict(size=steps['int8'].size)
    int8_ms, float_ms = ops.alternate(list(steps.values()), 0, repeats)
    result = dict(int8_ms=round(int8_ms, 1), float_ms=round(float_ms, 1))
    yield result | dict(ratio=round(float_ms / int8_ms, 3))
    for kind, step in steps.items():
        yield {f'{kind}_peak_mb': round(peak_memory(step) / 2**20, 1)}


def step_pair(cfg: Config, batch: int, size: tuple[int, int] | None) -> dict[str, Step]:
    """The steps of both kinds, ``int8`` and ``float``, each taken once: optimizers have states."""
    steps = {}
    for kind, its_cfg in (('int8', to_integer(cfg)), ('float', cfg)):
        steps[kind] = Step(its_cfg, batch, size)
        steps[kind]()
    return steps


def on_gpu(
    cfg: Config, batch: int, size: tuple[int, int] | None, repeats: int, device: torch.device
) -> Iterator[dict]:
    """Peaks, then times, on a GPU."""
    yield dict(card=torch.cuda.get_device_name(device))
    steps = {}
    for kind in ('int8', *FLOATS):
        its_cfg = to_integer(cfg) if kind == 'int8' else copy.deepcopy(cfg)
        if kind == 'bf16':
            its_cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
        step = Step(its_cfg, batch, size, device)
        yield dict(size=step.size)
        if kind in ('tf32', 'bf16'):
            step.model.to(memory_format=torch.channels_last)
        if kind == 'bf16':
            keep_regions_float32(step.model)
        steps[kind] = step = in_precision(kind, step)
        step()  # fills the optimizer's state
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        peak = torch.cuda.max_memory_allocated(device) - before
        torch.cuda.empty_cache()
        yield {f'{kind}_peak_mb': round(peak / 2**20, 1)}
    times = alternate(steps, repeats)
    yield {f'{kind}_ms': round(taken, 2) for kind, taken in times.items()}
    yield {f'times_{kind}': round(times[kind] / times['int8'], 3) for kind in FLOATS}


def keep_regions_float32(model: nn.Module) -> None:
    """Lets a detector cut out regions in float32 under AMP: mmcv's RoIAlign has no bf16."""

    def cast(module: nn.Module, args: tuple) -> tuple:
        features, *others = args
        return tuple(x.float() for x in features), *others

    for module in model.modules():
        if type(module).__name__.endswith('RoIExtractor'):
            module.register_forward_pre_hook(cast)


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
