"""An integer run and its float twin start from equal weights, and go on with equal numbers.

Layers become integer after they were initialised and loaded, so that whatever a stock model asks of
its layers' classes before is answered as in float.
"""

import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.registry import LOOPS, RUNNERS
from mmengine.runner import BaseLoop, Runner
from synthetic_step import without_weights
from test_zoo import CONFIGS, ZOO, load
from tiny_run import TinyClassifier, assert_same, by_hand, integer, read_log, stock, train

from mmint.conversion import convert
from mmint.layers import IntLayer

DEFAULT_HOOKS = 'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'


@LOOPS.register_module()
class NoIterations(BaseLoop):
    """A training that ends when all is ready for its first iteration."""

    iter, max_iters = 0, 0

    def __init__(self, runner, dataloader):
        self._runner = runner

    def run(self):
        self.runner.call_hook('before_train')


def start(cfg, folder, runner_type):
    """The model at its first iteration, and the random numbers that come next."""
    cfg = cfg.copy()
    for key in ('dataloader', 'cfg', 'evaluator'):
        cfg[f'val_{key}'] = cfg[f'test_{key}'] = None
    cfg.train_cfg = dict(type='NoIterations')
    cfg.param_scheduler = cfg.auto_scale_lr = None
    cfg.default_hooks = dict.fromkeys(DEFAULT_HOOKS)
    cfg.custom_hooks = []
    cfg.load_from = None
    cfg.randomness = dict(seed=0)
    cfg.work_dir = str(folder)
    cfg.runner_type = runner_type
    cfg.experiment_name = f'{folder.name}_{runner_type}'
    runner = RUNNERS.build(cfg)
    runner.train()
    return runner.model, (torch.rand(2).tolist(), np.random.rand(), random.random())


def assert_equal_starts(cfg, folder):
    stock, after_stock = start(cfg, folder, 'Runner')
    model, after = start(cfg, folder, 'IntRunner')
    assert not any(isinstance(m, IntLayer) for m in stock.modules())
    assert any(isinstance(m, IntLayer) for m in model.modules())
    weights = stock.state_dict()
    assert list(model.state_dict()) == list(weights)
    differ = [key for key, value in model.state_dict().items() if not value.equal(weights[key])]
    assert not differ and after == after_stock


@pytest.mark.slow
@pytest.mark.parametrize('name', ZOO)
def test_a_config_and_its_float_twin_start_from_equal_weights(name, tmp_path):
    assert_equal_starts(load(name, CONFIGS), tmp_path)


def test_maskformer_starts_from_the_weights_of_its_float_twin(tmp_path):
    """Its pixel decoder initialises layers by their classes, which are mmcv's."""
    cfg = get_config('mmseg::maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py')
    without_weights(cfg.model)
    cfg.model.backbone.update(depth=18)
    cfg.model.decode_head.in_channels = [64, 128, 256, 512]
    assert_equal_starts(cfg, tmp_path)


# Where conversion comes in a run


class Notes(Hook):
    """The class of the first layer when a hook is called, and what the model predicts."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.classes, self.predictions = {}, []

    def note(self, moment, runner):
        self.classes.setdefault(moment, type(runner.model.stem).__name__)

    def before_run(self, runner):
        self.note('run', runner)

    def after_load_checkpoint(self, runner, checkpoint):
        self.note('load', runner)

    def before_train(self, runner):
        self.note('train', runner)

    def before_val(self, runner):
        self.note('val', runner)

    def before_test(self, runner):
        self.note('test', runner)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.predictions.append((data_batch, outputs[0]))


def evaluated(cfg):
    """A config that evaluates the model every third iteration, and tests it."""
    data = dict(cfg.train_dataloader, sampler=dict(type='DefaultSampler', shuffle=False))
    cfg.train_cfg.val_interval = 3
    for split in ('val', 'test'):
        cfg[f'{split}_dataloader'] = data
        cfg[f'{split}_evaluator'] = dict(type='Evaluator', metrics=[])
        cfg[f'{split}_cfg'] = dict(type=f'{split.title()}Loop')
    return cfg


def noted(cfg, how='train'):
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(notes := Notes())
    getattr(runner, how)()
    return runner, notes


@pytest.mark.parametrize('make', [integer, by_hand])
@pytest.mark.parametrize('how', ['train', 'val', 'test'])
def test_a_model_is_stock_until_it_is_initialised_and_loaded(how, make, tmp_path):
    train(stock(tmp_path / 'float'))
    cfg = evaluated(make(tmp_path / 'int'))
    cfg.load_from = str(tmp_path / 'float' / 'iter_6.pth')
    _, notes = noted(cfg, how)
    then = dict(train='IntConv2d', val='IntConv2d') if how == 'train' else {how: 'IntConv2d'}
    assert notes.classes == dict(run='Conv2d', load='Conv2d', **then)
    assert read_log(tmp_path / 'int').count('Integer layers, ') == 1


def test_a_run_is_tested_after_it_was_trained(tmp_path):
    runner, notes = noted(evaluated(integer(tmp_path)))
    runner.test()
    assert notes.classes['test'] == 'IntConv2d'


@pytest.mark.parametrize('buffers', [False, True])
def test_averaged_weights_are_evaluated_in_integers(buffers, tmp_path):
    """mmengine's hook copies the model before it is converted, and swaps values, not modules."""
    cfg = evaluated(integer(tmp_path))
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.5, update_buffers=buffers)]
    runner, notes = noted(cfg)
    assert len(notes.predictions) == 2 * 6
    averaged = torch.load(tmp_path / 'iter_6.pth', weights_only=False)['state_dict']
    assert not averaged['stem.weight'].equal(runner.model.stem.weight)
    model = TinyClassifier().eval()
    model.load_state_dict(averaged)
    convert(model)
    with torch.no_grad():
        for batch, scores in notes.predictions[6:]:
            assert torch.equal(model(**batch, mode='predict')[0], scores)


def test_a_compiled_run_is_converted_too(tmp_path):
    cfg = integer(tmp_path / 'a', steps=2)
    cfg.compile = dict(backend='eager')
    assert_same(train(cfg), train(integer(tmp_path / 'b', steps=2)))
