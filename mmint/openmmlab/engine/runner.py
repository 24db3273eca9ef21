"""The runner that turns a stock config into an integer one."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, ApexOptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ...optim import IntSGD
from .checkpoint import WholeCheckpointHook, part, replace
from .hook import IntTrainingHook

IGNORED = ('type', '_scope_', 'foreach', 'fused')  # do not change what SGD computes
MIXED_PRECISION = {wrapper.__name__: wrapper for wrapper in (AmpOptimWrapper, ApexOptimWrapper)}


@RUNNERS.register_module()
class IntRunner(Runner):
    """`mmengine.runner.Runner` whose config needs no more than ``integer = dict(bits=8)``.

    ``from_cfg`` adds `IntTrainingHook` with the settings under ``integer``, and where the optimizer
    is SGD, replaces it by `IntSGD` and its wrapper by `IntOptimWrapper`, with the same numbers. Any
    other optimizer stays as it is, in float. A wrapper of mixed precision becomes one without.

    Checkpoints are written such that a crash, at any time, leaves the last one whole.
    """

    @classmethod
    def from_cfg(cls, cfg: Config | ConfigDict | dict) -> Runner:
        """Builds a runner from a config.

        Raises:
            TypeError, ValueError: as `to_integer`.
        """
        runner = super().from_cfg(to_integer(cfg))
        replaced = _type_name(cfg.get('optim_wrapper'))
        if replaced in MIXED_PRECISION:
            runner.logger.info(
                f'The optimizer wrapper {replaced} is replaced by one without mixed precision, '
                'which integer layers do not need'
            )
        return runner

    def register_hook(self, hook: Hook | dict, *args: Any, **kwargs: Any) -> None:
        """As `Runner.register_hook`; a `CheckpointHook` becomes a `WholeCheckpointHook`."""
        if isinstance(hook, dict) and _type_name(hook) == 'CheckpointHook':
            hook = dict(hook, type=WholeCheckpointHook)
        super().register_hook(hook, *args, **kwargs)

    @master_only
    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """As `Runner.save_checkpoint`; a local file is written beside, synced and renamed."""
        backend = get_file_backend(out_dir, backend_args=kwargs.get('backend_args'))
        if file_client_args is not None or not isinstance(backend, LocalBackend):
            super().save_checkpoint(out_dir, filename, file_client_args, **kwargs)
            return
        path = Path(out_dir, filename)
        try:
            super().save_checkpoint(out_dir, part(path).name, **kwargs)
            replace(path)
        except BaseException:
            part(path).unlink(missing_ok=True)
            raise

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> DataLoader:
        """As `Runner.build_dataloader`, saying what to do where a file of the data is missing.

        Raises:
            FileNotFoundError: if a file of the data set does not exist.
        """
        try:
            return Runner.build_dataloader(dataloader, *args, **kwargs)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'the data set of the config needs {error.filename or error}, which does not '
                'exist: put the data there, set `data_root` and `ann_file` to where they are, or '
                'make the digits with `python tools/make_digits.py`'
            ) from error


def to_integer(cfg: Config | ConfigDict | dict) -> Config | ConfigDict | dict:
    """The config that `IntRunner` makes of ``cfg``, which stays as it is.

    Raises:
        TypeError: if the settings under ``integer`` are no dict of those that there are.
        ValueError: if they are in two places, or SGD has settings that `IntSGD` lacks.
    """
    cfg = copy.deepcopy(cfg)
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(_type_name(hook) == 'IntTrainingHook' for hook in hooks):
        settings = cfg.get('integer', {})
        accepted = list(inspect.signature(IntTrainingHook).parameters)
        if not isinstance(settings, dict) or not set(settings) <= set(accepted):
            raise TypeError(
                f'the config has integer = {settings!r}, a dict of {", ".join(accepted)} is '
                "accepted: write integer = dict(bits=8), or runner_type = 'Runner' to train in "
                'float'
            )
        hooks.append(dict(type='IntTrainingHook', **settings))
    elif 'integer' in cfg:
        raise ValueError(
            'the config has an IntTrainingHook of its own and the key `integer`, one of them is '
            'accepted: move the settings to one and remove the other'
        )
    cfg['custom_hooks'] = hooks
    wrapper = cfg.get('optim_wrapper') or {}
    wrapper_type = _type_name(wrapper) or 'OptimWrapper'
    if wrapper_type in MIXED_PRECISION:
        for key in inspect.signature(MIXED_PRECISION[wrapper_type]).parameters:
            wrapper.pop(key, None)
        wrapper['type'] = wrapper_type = 'OptimWrapper'
    optimizer: Any = wrapper.get('optimizer')
    if wrapper_type == 'OptimWrapper' and _type_name(optimizer) == 'SGD':
        wrapper['type'] = 'IntOptimWrapper'
        wrapper['optimizer'] = _integer_sgd(optimizer)
    return cfg


def _integer_sgd(optimizer: dict) -> dict:
    """The config of SGD as one of IntSGD; what IntSGD lacks may only be there switched off."""
    accepted = inspect.signature(IntSGD).parameters
    others = {key: optimizer[key] for key in optimizer if key not in (*accepted, *IGNORED)}
    if any(others.values()):
        raise ValueError(
            f'the optimizer SGD was given {others}, IntSGD accepts {", ".join(accepted)}: remove '
            'the others'
        )
    kept = {key: value for key, value in optimizer.items() if key in accepted}
    return dict(type='IntSGD', **kept)


def _type_name(cfg: Any) -> str | None:
    """The ``type`` of a config, written as a name, with or without a scope, or as a class."""
    kind: Any = cfg.get('type') if isinstance(cfg, dict) else type(cfg)
    return getattr(kind, '__name__', kind) and str(getattr(kind, '__name__', kind)).split('.')[-1]
