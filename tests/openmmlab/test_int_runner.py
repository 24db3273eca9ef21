"""What a user's config gives through the real mmengine Runner."""

import copy
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import RUNNERS
from tiny_run import SGD, TinyClassifier, assert_same, by_hand, integer, read_log, stock, train
from torch import nn

import mmint  # noqa: F401
from mmint.layers import IntConv2d, IntLinear
from mmint.openmmlab.engine import IntOptimWrapper, IntRunner, IntTrainingHook
from mmint.openmmlab.engine.runner import to_integer
from mmint.optim import IntSGD


def test_two_lines_make_a_stock_config_integer(tmp_path):
    runner = train(integer(tmp_path))
    assert isinstance(runner, IntRunner)
    assert type(runner.optim_wrapper) is IntOptimWrapper
    optimizer = runner.optim_wrapper.optimizer
    assert type(optimizer) is IntSGD
    group = optimizer.param_groups[0]
    assert (group['momentum'], group['weight_decay'], group['bits']) == (0.9, 1e-4, 16)
    assert group['initial_lr'] == 0.05
    assert sum(isinstance(hook, IntTrainingHook) for hook in runner.hooks) == 1
    assert type(runner.model.stem) is IntConv2d and type(runner.model.head) is IntLinear
    assert optimizer.names[runner.model.head.bias] == 'head.bias'
    log = read_log(tmp_path)
    assert log.count('Integer layers, ') == 1
    assert re.search(r'Conv2d +IntConv2d +integer +8 +free +2 +\d+ +stem, body', log)
    assert re.search(r'BatchNorm2d +IntBatchNorm2d +integer +8 +free +1 +12 +norm', log)


def test_settings_reach_the_hook(tmp_path):
    cfg = integer(tmp_path, steps=1)
    cfg.integer = dict(bits=6, exclude=['head'], layer_bits=dict(body=12))
    model = train(cfg).model
    assert model.stem.bits == 6 and model.body.bits == 12 and type(model.head) is nn.Linear


def test_the_stock_config_stays_as_it_is(tmp_path):
    cfg = integer(tmp_path)
    before = copy.deepcopy(cfg.to_dict())
    RUNNERS.build(cfg)
    assert cfg.to_dict() == before


def test_written_by_hand_it_is_the_same_run(tmp_path):
    assert_same(train(integer(tmp_path / 'a')), train(by_hand(tmp_path / 'b')))


def test_hook_written_by_hand_is_not_added_again(tmp_path):
    cfg = by_hand(tmp_path)
    cfg.runner_type = 'IntRunner'
    runner = RUNNERS.build(cfg)
    assert sum(isinstance(hook, IntTrainingHook) for hook in runner.hooks) == 1


def test_names_with_a_scope_mean_the_same(tmp_path):
    cfg = integer(tmp_path / 'a', dict(SGD, type='mmengine.SGD'), 'mmengine.OptimWrapper')
    assert_same(train(cfg), train(integer(tmp_path / 'b')))


def test_classes_instead_of_names_mean_the_same(tmp_path):
    cfg = integer(tmp_path / 'a', dict(SGD, type=torch.optim.SGD), OptimWrapper)
    cfg.model.type = TinyClassifier
    cfg.runner_type = IntRunner
    assert_same(train(cfg), train(integer(tmp_path / 'b')))


PYTHON_STYLE_BASE = """
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch.optim import SGD

optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=SGD, lr=0.05, momentum=0.9, weight_decay=1e-4)
)
"""
PYTHON_STYLE = """
from mmengine.config import read_base

with read_base():
    from .base import *

from mmint.openmmlab.engine import IntRunner

runner_type = IntRunner
integer = dict(bits=8)
"""


def test_python_style_config_means_the_same(tmp_path):
    (tmp_path / 'base.py').write_text(PYTHON_STYLE_BASE)
    (tmp_path / 'config.py').write_text(PYTHON_STYLE)
    cfg = Config.fromfile(tmp_path / 'config.py')
    rest = stock(tmp_path / 'a').to_dict()
    del rest['optim_wrapper']
    cfg.merge_from_dict(rest)
    assert_same(train(cfg), train(integer(tmp_path / 'b')))


def test_another_optimizer_stays_float_and_one_line_says_so(tmp_path):
    runner = train(integer(tmp_path, dict(type='AdamW', lr=1e-3)))
    assert type(runner.optim_wrapper) is OptimWrapper
    assert type(runner.optim_wrapper.optimizer) is torch.optim.AdamW
    assert type(runner.model.stem) is IntConv2d
    assert read_log(tmp_path).count('AdamW updates the weights in float') == 1


AMP = dict(loss_scale='dynamic', dtype='float16', use_fsdp=True)


@pytest.mark.parametrize(
    'wrapper, settings',
    [
        ('AmpOptimWrapper', AMP),
        ('mmengine.AmpOptimWrapper', dict(loss_scale=512.0)),
        (AmpOptimWrapper, AMP),
        ('ApexOptimWrapper', dict(opt_level='O1', loss_scale='dynamic')),
    ],
)
def test_mixed_precision_is_replaced_and_one_line_says_so(tmp_path, wrapper, settings):
    cfg = integer(tmp_path / 'a', wrapper=wrapper)
    cfg.optim_wrapper.update(clip_grad=dict(max_norm=1.0), **settings)
    runner = train(cfg)
    without = integer(tmp_path / 'b')
    without.optim_wrapper.clip_grad = dict(max_norm=1.0)
    assert_same(runner, train(without))
    name = getattr(wrapper, '__name__', wrapper).split('.')[-1]
    line = f'The optimizer wrapper {name} is replaced by one without mixed precision'
    assert read_log(tmp_path / 'a').count(line) == 1


def test_mixed_precision_of_another_optimizer_is_replaced_too(tmp_path):
    cfg = integer(tmp_path, dict(type='AdamW', lr=1e-3), 'AmpOptimWrapper')
    cfg.optim_wrapper.update(AMP)
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
    assert to_integer(cfg)['optim_wrapper'] == wrapper


def test_gradient_clipping_and_accumulation_work_as_with_the_stock_wrapper(tmp_path):
    cfg = integer(tmp_path)
    cfg.optim_wrapper.update(clip_grad=dict(max_norm=1.0), accumulative_counts=2)
    runner = train(cfg)
    assert runner.optim_wrapper.optimizer.steps == 3
    assert all(p.isfinite().all() for p in runner.model.parameters())


@pytest.mark.slow
def test_the_loss_falls(tmp_path):
    """Forty iterations: the second half's mean loss is below the first's."""
    cfg = integer(tmp_path, steps=40)
    runner = train(cfg)
    losses = [float(v) for v in runner.message_hub.log_scalars['train/loss'].data[0]]
    assert sum(losses[20:]) < sum(losses[:20])


def test_what_int_sgd_lacks_may_be_there_switched_off(tmp_path):
    switched_off = dict(dampening=0, maximize=False, foreach=True)
    cfg = to_integer(integer(tmp_path, optimizer=dict(SGD, **switched_off)))
    assert cfg['optim_wrapper']['optimizer'] == dict(SGD, type='IntSGD')
    with pytest.raises(ValueError, match="SGD was given {'dampening': 0.5}, IntSGD accepts params"):
        to_integer(integer(tmp_path, optimizer=dict(SGD, dampening=0.5)))


def test_a_wrapper_without_an_optimizer_is_left_to_the_runner(tmp_path):
    cfg = integer(tmp_path)
    cfg['optim_wrapper'] = dict(type='OptimWrapper')
    assert to_integer(cfg)['optim_wrapper'] == dict(type='OptimWrapper')


def test_a_layer_is_built_by_name_from_any_scope():
    from mmcv.cnn import build_conv_layer
    from mmengine.registry import init_default_scope

    for scope in ('mmdet', 'mmseg', 'mmpretrain'):
        init_default_scope(scope)
        layer = build_conv_layer(dict(type='IntConv2d', bits=6), 3, 8, 3, padding=1)
        assert isinstance(layer, IntConv2d) and layer.bits == 6
    init_default_scope('mmengine')
