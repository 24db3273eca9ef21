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
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch.profiler import ProfilerActivity, profile

from mmint.convert import convert
from mmint.hooks.int_runner import to_integer
from mmint.numerics import current_run

LABEL = 255  # what segmentation ignores


def run(
    config: str, batch: int, size: tuple[int, int], repeats: int, threads: int, bits: int
) -> dict:
    """Times and measures int8 and float training steps of ``config``.

    Returns:
        ``int8_ms``, ``float_ms``, ``ratio``, ``int8_peak_mb``, ``float_peak_mb`` and the settings.
    """
    torch.set_num_threads(threads)
    steps = {}
    for kind in ('int8', 'float'):
        torch.manual_seed(0)
        steps[kind] = Step(config, batch, size, bits if kind == 'int8' else None)
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


class Step:
    """A training step of one model on one synthetic batch."""

    def __init__(self, config: str, batch: int, size: tuple[int, int], bits: int | None) -> None:
        cfg = Config.fromfile(config) if Path(config).exists() else stock_config(config)
        init_default_scope(cfg.default_scope)
        if bits is not None:
            cfg = to_integer(cfg)
        self.model = MODELS.build(without_downloads(cfg.model)).train()
        if bits is not None:
            convert(self.model, bits)
        self.optim_wrapper = Runner.build_optim_wrapper(_Holder(self.model), cfg.optim_wrapper)
        self.data = synthetic_batch(cfg, batch, size)
        self.iteration = 0

    def __call__(self) -> None:
        """Takes the step."""
        current_run.begin_iteration(self.iteration)
        self.iteration += 1
        self.model.train_step(self.data, self.optim_wrapper)


class _Holder:
    """What `Runner.build_optim_wrapper` needs of a runner."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model


def stock_config(name: str) -> Config:
    """A config of an installed package, written as ``package::path``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'config.py'
        path.write_text(f'_base_ = {name!r}\n')
        return Config.fromfile(path)


def without_downloads(model: dict) -> dict:
    """A model config whose weights start at random."""
    for key in ('pretrained', 'init_cfg'):
        if isinstance(model.get(key), (dict, str)):
            model[key] = None
    for value in model.values():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, dict):
                without_downloads(part)
    return model


def synthetic_batch(cfg: Config, batch: int, size: tuple[int, int]) -> dict:
    """Random images and annotations for a model of the config's family."""
    make = {'mmdet': _detection, 'mmseg': _segmentation, 'mmpretrain': _classification}
    if cfg.default_scope not in make:
        raise SystemExit(
            f'a config of scope {cfg.default_scope!r} was given, {", ".join(make)} are accepted'
        )
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for _ in range(batch)
    ]
    samples = [make[cfg.default_scope](size, generator) for _ in range(batch)]
    if cfg.default_scope == 'mmpretrain':
        images = torch.stack(images)
    return dict(inputs=images, data_samples=samples)


def _detection(size: tuple[int, int], generator: torch.Generator) -> object:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    height, width = size
    corner = torch.rand(5, 2, generator=generator) * 0.6
    extent = 0.1 + torch.rand(5, 2, generator=generator) * 0.3
    boxes = torch.cat([corner, corner + extent], 1) * torch.tensor([width, height] * 2)
    meta = dict(
        img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1, 1)
    )
    sample = DetDataSample(metainfo=meta)
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.randint(10, (5,), generator=generator)
    )
    return sample


def _segmentation(size: tuple[int, int], generator: torch.Generator) -> object:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.randint(10, (1, *size), generator=generator)
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
    sample.gt_sem_seg = PixelData(data=labels)
    return sample


def _classification(size: tuple[int, int], generator: torch.Generator) -> object:
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(int(torch.randint(10, (1,), generator=generator)))


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
