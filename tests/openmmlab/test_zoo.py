"""Every config of the zoo trains and evaluates, on miniature data sets in its own format.

The data's format, the pipelines, the model, the optimizer and the runner are the config's own. But
images and crops of detectors and segmenters are a quarter as large (SSD's anchors are made for one
size), a batch holds two images, and the weights start at random, with those of the float twin
(`test_equal_starts`).
"""

import math
import re
from pathlib import Path

import miniature
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.registry import RUNNERS
from synthetic_step import parts, without_weights

import mmint
from mmint.analysis import Recorder
from mmint.analysis.float_operations import KINDS
from mmint.layers import IntLayer
from mmint.openmmlab.datasets.digits import DigitsSettings, make_digits
from mmint.optim import IntSGD

CONFIGS = Path(__file__).parents[2] / 'configs'
TWIN = re.compile(r'^# Float twin: (\S+)$', re.MULTILINE)
ZOO = {
    str(path.relative_to(CONFIGS)): TWIN.search(path.read_text())[1]
    for path in sorted(CONFIGS.glob('*/*_int*.py'))
}
FIXED_SIZE = 'ssd', 'vision_transformer', 'bccd'
INTEGER = 'custom_imports', 'runner_type', 'integer'
SHRINK = 4


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('miniature')
    miniature.make_all(root)
    make_digits(root / 'data/digits', DigitsSettings(seed=0, train=4, val=2, size=128))
    return root


def load(name, folder):
    """The config ``name``: of a package, or a file of ``folder``, without pretrained weights."""
    cfg = get_config(name) if '::' in name else Config.fromfile(folder / name)
    without_weights(cfg.model)
    cfg.load_from = None
    return cfg


def shrink(value):
    """Sizes in pixels, in pairs, a quarter as large and divisible by 32."""
    if isinstance(value, dict):
        return ConfigDict({key: shrink(part) for key, part in value.items()})
    if not isinstance(value, (list, tuple)):
        return value
    if len(value) == 2 and all(isinstance(v, int) and abs(v) >= 256 for v in value):
        return type(value)(int(math.copysign(abs(v) // SHRINK // 32 * 32, v)) for v in value)
    return type(value)(map(shrink, value))


def make_small(cfg, name, tmp_path):
    """An iteration of two images, then an evaluation of one."""
    for split in ('train', 'val'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        if name.split('/')[0] not in FIXED_SIZE:
            cfg[f'{split}_dataloader'] = shrink(loader)
    if 'data_preprocessor' in cfg.model and name.split('/')[0] not in FIXED_SIZE:
        cfg.model.data_preprocessor = shrink(cfg.model.data_preprocessor)
    cfg.val_dataloader.dataset.indices = 1
    predict_something(cfg.model)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=1, val_interval=1)
    cfg.default_hooks = dict(logger=dict(type='LoggerHook', interval=1), checkpoint=None)
    cfg.log_processor = dict(by_epoch=False)
    cfg.randomness = dict(seed=0)
    cfg.work_dir = str(tmp_path)


def predict_something(model):
    """Detections of any score and size count, so that there are some to be evaluated."""
    for part in parts(model):
        if 'score_thr' in part:
            part['score_thr'] = 0.0
        if 'min_bbox_size' in part:
            part['min_bbox_size'] = -1


class Probe(Hook):
    """Audits the training step, and notes its gradients and what it leaves."""

    def __init__(self):
        self.gradients, self.recorder = {}, None

    def before_train(self, runner):
        self.trainable = {n for n, p in runner.model.named_parameters() if p.requires_grad}
        for name, parameter in runner.model.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p, n=name: self.note(n, p))

    def note(self, name, parameter):
        assert parameter.grad.isfinite().all()
        self.gradients[name] = parameter.grad.clone()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.recorder = Recorder(runner.model)
        self.recorder.__enter__()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.report = self.recorder.report
        self.stop()
        # Without their graph, which leads to the parameters and their hooks, and so to this.
        self.losses = {key: value.detach() for key, value in outputs.items() if 'loss' in key}
        self.state = {key: value.clone() for key, value in runner.model.state_dict().items()}

    def stop(self):
        if self.recorder is not None:
            self.recorder.__exit__(None, None, None)
            self.recorder = None


def plain(value):
    """A config without the scopes that mmengine marks in bases of other packages."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key != '_scope_'}
    return list(map(plain, value)) if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('name', ZOO)
def test_a_config_is_its_float_twin_and_three_keys(name):
    twin = ZOO[name]
    twin = get_config(twin) if '::' in twin else Config.fromfile((CONFIGS / name).parent / twin)
    cfg = plain(Config.fromfile(CONFIGS / name)._cfg_dict)
    assert all(key in cfg for key in INTEGER)
    assert {k: v for k, v in cfg.items() if k not in INTEGER} == plain(twin._cfg_dict)


@pytest.mark.slow
@pytest.mark.parametrize('name', ZOO)
def test_a_config_trains_and_evaluates(name, root, tmp_path, monkeypatch, fresh_run):
    twin = load(ZOO[name], (CONFIGS / name).parent)
    monkeypatch.chdir(root)
    miniature.accept_cifar(monkeypatch)
    cfg, runner, probe = trained(name, tmp_path)

    assert probe.losses and all(torch.isfinite(loss).all() for loss in probe.losses.values())
    assert set(probe.gradients) == probe.trainable
    assert any(
        map(torch.any, probe.gradients.values())
    )  # many are 0: residual branches begin with a weight of 0
    layers = [m for m in runner.model.modules() if isinstance(m, IntLayer)]
    assert layers and {layer.bits for layer in layers} == {cfg.integer.bits}
    integer_optimizer = isinstance(runner.optim_wrapper.optimizer, IntSGD)
    assert integer_optimizer == (twin.optim_wrapper.optimizer.type == 'SGD')
    kinds = [kind for kind in KINDS if kind != 'optimizer' or integer_optimizer]
    print(name, probe.report.share(kinds))  # for configs/README.md
    assert probe.report.share(kinds) > 0.999, probe.report.to_text()
    logged = runner.message_hub.log_scalars
    metrics = [logged[key].current() for key in logged if re.match('val/(?!time|data_time)', key)]
    assert metrics and all(map(math.isfinite, metrics))

    mmint.begin_iteration(0)
    monkeypatch.setattr('mmint.ops.deferred.wish', '0')
    _, _, written = trained(name, tmp_path, evaluated=False)
    for kind in ('losses', 'gradients', 'state'):
        expected, actual = getattr(written, kind), getattr(probe, kind)
        assert actual.keys() == expected.keys()
        different = [k for k, v in actual.items() if not torch.equal(v, expected[k])]
        assert not different, f'{kind} have other bits where elements wait'


def trained(name, tmp_path, evaluated=True):
    """The miniature of a config, its runner after one iteration, and what a probe saw of it."""
    cfg = load(name, CONFIGS)
    make_small(cfg, name, tmp_path)
    if not evaluated:
        cfg.update(val_dataloader=None, val_cfg=None, val_evaluator=None, experiment_name='twice')
    runner = RUNNERS.build(cfg)
    probe = Probe()
    runner.register_hook(probe, priority='LOWEST')
    try:
        runner.train()
    finally:
        probe.stop()
    return cfg, runner, probe


def test_the_zoos_readme_has_a_row_for_every_config():
    rows = re.findall(r'^\| \[`(\S+)`\]', (CONFIGS / 'README.md').read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(ZOO)
