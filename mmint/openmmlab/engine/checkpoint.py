"""Checkpoints that a crash leaves whole: written beside, synced, renamed, and only then removed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner


class WholeCheckpointHook(CheckpointHook):
    """mmengine's, which here removes an old checkpoint when the new one is whole, not before.

    So ``last_checkpoint`` names a whole checkpoint at any time, whatever ``max_keep_ckpts``.
    """

    file_backend: Any

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            outdated = [*self.keep_ckpt_ids, step][: -self.max_keep_ckpts]
            self.keep_ckpt_ids.append(step)  # a deque that drops those outdated
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            name = Path(runner.work_dir, 'last_checkpoint')
            part(name).write_text(self.last_ckpt)
            replace(name)
            for path in map(self._path, outdated):
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        backend = self.file_backend
        self.file_backend = later = _RemovesLater(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        best = {getattr(self, 'best_ckpt_path', None)}
        best |= set(getattr(self, 'best_ckpt_path_dict', {}).values())
        for path in set(later.removed) - best:
            backend.remove(path)

    def _path(self, step: int) -> str:
        return self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))


class _RemovesLater:
    """A file backend that only notes which files to remove."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.removed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        """Notes ``path``."""
        self.removed.append(path)


def part(path: Path) -> Path:
    """Where a file is written before it is whole."""
    return path.with_name(f'{path.name}.part')


def replace(path: Path) -> None:
    """Puts the file that was written at ``part(path)`` in place of ``path``, on the disk too."""
    with open(part(path), 'rb+') as file:
        os.fsync(file.fileno())
    os.replace(part(path), path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
