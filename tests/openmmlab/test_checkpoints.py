"""A crash at any time leaves a whole checkpoint to resume from."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook
from mmengine.registry import METRICS, RUNNERS
from mmengine.runner import find_latest_checkpoint
from tiny_run import assert_same, integer, stock, train

CHANGES = {'open', 'write', 'close', 'fsync', 'rename', 'replace', 'remove', 'unlink', '__exit__'}


@METRICS.register_module()
class Rising(BaseMetric):
    """Every validation is better than the last."""

    values = itertools.count()

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(acc=float(next(self.values)))


def keeping_one(folder, make=integer, **settings):
    """A config of six iterations that saves every second and keeps one checkpoint."""
    cfg = make(folder)
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=1, **settings)
    return cfg


def validating(cfg):
    cfg.val_dataloader = dict(
        cfg.train_dataloader.to_dict(), sampler=dict(type='DefaultSampler', shuffle=False)
    )
    cfg.val_evaluator = dict(type='Rising')
    cfg.val_cfg = dict(type='ValLoop')
    cfg.train_cfg.val_interval = 2
    return cfg


def train_looking(cfg, look):
    """Trains, and calls ``look`` whenever a checkpoint, or what names the last, has changed."""
    before = []

    def profile(frame, event, function):
        if event in ('c_call', 'c_return') and function.__name__ in CHANGES:
            files = [*saved(Path(cfg.work_dir)), 'last_checkpoint']
            stats = [os.stat(p) for f in files if (p := Path(cfg.work_dir, f)).exists()]
            now = [(s.st_ino, s.st_size, s.st_mtime_ns) for s in stats]
            if now != before:
                before[:] = now
                look()

    runner = RUNNERS.build(cfg)
    sys.setprofile(profile)
    try:
        runner.train()
    finally:
        sys.setprofile(None)


def saved(folder):
    return sorted(path.name for path in folder.glob('*.pth*'))


def last_iteration(folder):
    """The iteration of the checkpoint to resume from, None if there is none yet."""
    last = find_latest_checkpoint(str(folder))
    return None if last is None else torch.load(last, weights_only=False)['meta']['iter']


def test_a_whole_checkpoint_is_there_between_any_two_changes_of_a_file(tmp_path):
    seen = []
    train_looking(keeping_one(tmp_path), lambda: seen.append(last_iteration(tmp_path)))
    assert list(dict.fromkeys(seen)) == [None, 2, 4, 6]
    assert saved(tmp_path) == ['iter_6.pth']


def test_the_best_checkpoint_is_there_between_any_two_changes_of_a_file(tmp_path):
    seen = []

    def look():
        whole = [p for p in tmp_path.glob('best_*.pth') if torch.load(p, weights_only=False)]
        seen.append((last_iteration(tmp_path), bool(whole)))

    train_looking(validating(keeping_one(tmp_path, save_best='acc')), look)
    first = seen.index((2, True))
    assert all(best for _, best in seen[first:])
    assert [last for last in dict.fromkeys(last for last, _ in seen)] == [None, 2, 4, 6]
    assert saved(tmp_path) == ['best_acc_iter_6.pth', 'iter_6.pth']


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    whole = train(integer(tmp_path / 'a'))
    replaced = os.replace

    def full(source, target):
        if 'iter_4' in str(source):
            raise OSError(28, 'No space left on device')
        replaced(source, target)

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError, match='No space left'):
        train(keeping_one(tmp_path / 'b'))
    assert saved(tmp_path / 'b') == ['iter_2.pth'] and last_iteration(tmp_path / 'b') == 2
    monkeypatch.undo()
    cfg = keeping_one(tmp_path / 'b')
    cfg.resume = True
    assert_same(train(cfg), whole)


def test_two_are_kept_as_ever(tmp_path):
    for make in (integer, stock):
        cfg = keeping_one(tmp_path / make.__name__, make)
        cfg.default_hooks.checkpoint.max_keep_ckpts = 2
        runner = train(cfg)
        assert saved(tmp_path / make.__name__) == ['iter_4.pth', 'iter_6.pth']
        assert runner.message_hub.get_info('keep_ckpt_ids') == [4, 6]


def test_a_config_without_the_hook_or_with_none_keeps_its_meaning(tmp_path):
    cfg = integer(tmp_path / 'a')
    del cfg.default_hooks['checkpoint']
    hooks = [h for h in RUNNERS.build(cfg).hooks if isinstance(h, CheckpointHook)]
    assert [type(hook).__name__ for hook in hooks] == ['WholeCheckpointHook']
    cfg = integer(tmp_path / 'b')
    cfg.default_hooks.checkpoint = None
    assert not any(isinstance(hook, CheckpointHook) for hook in RUNNERS.build(cfg).hooks)


KILLED = """
import os, signal, sys
from pathlib import Path
import test_checkpoints, tiny_run

folder, function, name = Path(sys.argv[1]), *sys.argv[2:]
stock = getattr(os, function)

def kill(path, *args):
    if Path(path).name == name and list(folder.glob('iter_4.pth*')):
        os.kill(os.getpid(), signal.SIGKILL)
    return stock(path, *args)

setattr(os, function, kill)
tiny_run.train(test_checkpoints.keeping_one(folder))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    'function, name, last',
    [
        ('replace', 'iter_4.pth.part', 2),
        ('replace', 'last_checkpoint.part', 2),
        ('remove', 'iter_2.pth', 4),
    ],
)
def test_a_run_killed_while_it_saves_is_resumed_bit_for_bit(tmp_path, function, name, last):
    """When iteration 4's is to be renamed, to be named the last, or that before to be removed."""
    arguments = (tmp_path / 'a', function, name)
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run(
        [sys.executable, '-c', KILLED, *arguments], env=dict(os.environ, PYTHONPATH=here)
    )
    assert killed.returncode == -signal.SIGKILL
    assert last_iteration(tmp_path / 'a') == last
    cfg = keeping_one(tmp_path / 'a')
    cfg.resume = True
    assert_same(train(cfg), train(integer(tmp_path / 'b')))
    assert last_iteration(tmp_path / 'a') == 6
