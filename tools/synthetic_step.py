"""A training step of any config on random images, as `benchmark.py train` and `audit.py` take it.

The model, the optimizer and the conversion are those of a real run, through mmint's own hook; only
the data and the initial weights are random.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner

import mmint  # noqa: F401  configs may inherit mmint::_base_/int8.py

WARM_UP = 1e-3  # of the learning rate, as stock schedules begin
LABELS = 10  # classes that the random annotations use, where there are as many


class Step:
    """A training step of one model on one synthetic batch.

    It is what `IntTrainingHook` and the optimizer's builder need of a runner.

    Args:
        cfg: a config, one with integers as `IntRunner`'s `to_integer` returns it.
        batch: how many images.
        size: their height and width.
        device: where model and images are.
    """

    def __init__(
        self, cfg: Config, batch: int, size: tuple[int, int], device: str | torch.device = 'cpu'
    ) -> None:
        MMLogger.get_current_instance().setLevel('ERROR')  # the hook logs what it converts
        init_default_scope(cfg.default_scope)
        self.seed = self.iter = 0
        self.cfg = Config()  # as if it had no activation checkpointing
        self._randomness_cfg = {}
        data = synthetic_batch(cfg, batch, size)
        model = without_weights(cfg.model)
        if cfg.get('data_preprocessor'):
            model.setdefault('data_preprocessor', cfg.data_preprocessor)
        self.model = MODELS.build(model).train()
        self.model.init_weights()
        self.model.to(device)
        self.data = self.model.data_preprocessor.cast_data(data)  # to the device
        hooks = cfg.get('custom_hooks') or []
        self.hooks = [HOOKS.build(hook) for hook in hooks if hook['type'] == 'IntTrainingHook']
        self.optim_wrapper = Runner.build_optim_wrapper(self, cfg.optim_wrapper)
        for group in self.optim_wrapper.optimizer.param_groups:
            group['lr'] *= WARM_UP
        for hook in self.hooks:
            hook.before_run(self)
            hook.before_train(self)

    def __call__(self) -> None:
        """Takes the step."""
        for hook in self.hooks:
            hook.before_train_iter(self, self.iter)
        self.model.train_step(self.data, self.optim_wrapper)
        for hook in self.hooks:
            hook.after_train_iter(self, self.iter)
        self.iter += 1


def load_config(name: str) -> Config:
    """The config in the file ``name``, or of an installed package, ``package::path``."""
    if Path(name).exists():
        return Config.fromfile(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'config.py'
        path.write_text(f'_base_ = {name!r}\n')
        return Config.fromfile(path)


def parts(model: dict) -> Iterator[dict]:
    """A model config and all the configs inside it, the outer ones first."""
    yield model
    for value in model.values():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, dict):
                yield from parts(part)


def without_weights(model: dict) -> dict:
    """A model config, changed so that no weights are loaded: they start at random."""
    for part in parts(model):
        if 'pretrained' in part:
            part['pretrained'] = None
        if 'checkpoint' in (part.get('init_cfg') or ()):
            part['init_cfg'] = None
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
    classes = (part['num_classes'] for part in parts(cfg.model) if 'num_classes' in part)
    labels = min([LABELS, *classes])
    samples = [make[cfg.default_scope](size, labels, generator) for _ in range(batch)]
    if cfg.default_scope == 'mmpretrain':
        images = torch.stack(images)
    return dict(inputs=images, data_samples=samples)


def _detection(size: tuple[int, int], labels: int, generator: torch.Generator) -> object:
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
        bboxes=boxes, labels=torch.randint(labels, (5,), generator=generator)
    )
    return sample


def _segmentation(size: tuple[int, int], labels: int, generator: torch.Generator) -> object:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    pixels = torch.randint(labels, (1, *size), generator=generator)
    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
    sample.gt_sem_seg = PixelData(data=pixels)
    return sample


def _classification(size: tuple[int, int], labels: int, generator: torch.Generator) -> object:
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(int(torch.randint(labels, (1,), generator=generator)))
