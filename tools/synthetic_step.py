"""A training step of any config on random images, as `benchmark.py train` and `audit.py` take it.

The model, the optimizer and the conversion are those of a real run, through mmint's own hook; only
the data and the initial weights are random, the same for equal settings.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from synthetic_batch import parts, synthetic_batch, type_name

import mmint  # noqa: F401  configs may inherit mmint::_base_/int8.py

WARM_UP = 1e-3  # of the learning rate, as stock schedules begin
ITERATIONS = 1000  # of the run that the step is the beginning of, for what depends on progress


class Step:
    """A training step of one model on one synthetic batch.

    It is what `IntTrainingHook` and the optimizer's builder need of a runner. Its ``size`` is that
    of the first image, height and width.

    Args:
        cfg: a config, one with integers as `IntRunner`'s `to_integer` returns it.
        batch: how many images.
        size: their height and width; None as `synthetic_batch` has it.
        device: where model and images are.
    """

    def __init__(
        self,
        cfg: Config,
        batch: int,
        size: tuple[int, int] | None = None,
        device: str | torch.device = 'cpu',
    ) -> None:
        MMLogger.get_current_instance().setLevel('ERROR')  # the hook logs what it converts
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        self.seed = self.iter = 0
        self.cfg = Config()  # as if it had no activation checkpointing
        self._randomness_cfg = {}
        set_random_seed(self.seed)
        data = synthetic_batch(cfg, batch, size)
        self.size = tuple(first_image(data['inputs']).shape[-2:])
        model = without_weights(cfg.model)
        if cfg.get('data_preprocessor'):
            model.setdefault('data_preprocessor', cfg.data_preprocessor)
        if size:
            fit_to(size, model)
        self.model = MODELS.build(model)
        self.model.train()  # distillers return nothing
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

    def __call__(self) -> dict[str, torch.Tensor]:
        """Takes the step; returns the losses as the log would show them."""
        progress = dict(iter=self.iter, epoch=0, max_iters=ITERATIONS, max_epochs=1)
        MessageHub.get_current_instance().update_info_dict(progress)  # as `RuntimeInfoHook` does
        for hook in self.hooks:
            hook.before_train_iter(self, self.iter)
        losses = self.model.train_step(self.data, self.optim_wrapper)
        for hook in self.hooks:
            hook.after_train_iter(self, self.iter)
        self.iter += 1
        return losses


def load_config(name: str) -> Config:
    """The config in the file ``name``, or of an installed package, ``package::path``."""
    if Path(name).exists():
        return Config.fromfile(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'config.py'
        path.write_text(f'_base_ = {name!r}\n')
        return Config.fromfile(path)


def without_weights(model: dict) -> dict:
    """A model config, changed so that no weights are loaded: they start at random."""
    for part in parts(model):
        if 'pretrained' in part:
            part['pretrained'] = None
        if 'checkpoint' in (part.get('init_cfg') or ()):
            part['init_cfg'] = None
        if 'teacher_ckpt' in part:
            part['teacher_ckpt'] = None
    return model


def first_image(inputs: Any) -> torch.Tensor:
    """The first image in lists, views or branches of images."""
    while not isinstance(inputs, torch.Tensor):
        values = inputs.values() if isinstance(inputs, dict) else inputs
        inputs = next(value for value in values if value is not None)
    return inputs


def fit_to(size: tuple[int, int], model: dict) -> None:
    """Changes a model config that fixes the size of images, to pad or to place, to this one."""
    for part in parts(model):
        if part.get('img_size'):
            part['img_size'] = size
        if part.get('size') and re.search('Preprocessor|FixedSizePad', type_name(part), re.I):
            part['size'] = size
