"""Integer training through the real mmengine Runner, as a user's config asks for it."""

import copy
import itertools
import re

import pytest
import torch
from torch import nn

mmengine = pytest.importorskip('mmengine')

from mmengine.config import Config  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.model import BaseModel  # noqa: E402
from mmengine.optim import OptimWrapper  # noqa: E402
from mmengine.registry import DATASETS, MODELS, RUNNERS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402

import mmint  # noqa: E402, F401
from mmint.backends import NonFiniteError  # noqa: E402
from mmint.layers import IntConv2d, IntLayer, IntLinear  # noqa: E402
from mmint.openmmlab.engine import IntOptimWrapper, IntRunner, IntTrainingHook  # noqa: E402
from mmint.openmmlab.engine.runner import to_integer  # noqa: E402
from mmint.optim import IntSGD  # noqa: E402

names = itertools.count()


@MODELS.register_module()
class TinyClassifier(BaseModel):
    """Two convolutions, a batch norm and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=2)
        self.head = nn.Linear(6, 4)

    def forward(self, image, label, mode='tensor'):
        x = self.body(self.norm(self.stem(image)).relu()).relu()
        scores = self.head(x.mean((2, 3)))
        if mode == 'loss':
            return dict(loss=nn.functional.cross_entropy(scores, label))
        return [scores]


@DATASETS.register_module()
class TinyImages(Dataset):
    """Random images; one of them may be spoilt."""

    def __init__(self, spoilt=None, dtype='float32'):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(24, 3, 8, 8, generator=generator)
        self.labels = torch.randint(4, (24,), generator=generator)
        if spoilt is not None:
            self.images[spoilt, 0, 0, 0] = float('nan')
        self.images = self.images.to(getattr(torch, dtype))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return dict(image=self.images[index], label=self.labels[index])


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own():
    """The registries' scope, the generators and the threads are left as they were."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


SGD = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4)


def stock(folder, optimizer=SGD, wrapper='OptimWrapper', steps=6, shuffle=True, **dataset):
    """A config of the ordinary kind: six iterations of four images."""
    return Config(
        dict(
            default_scope='mmengine',
            experiment_name=f'tiny_{next(names)}',
            work_dir=str(folder),
            model=dict(type='TinyClassifier'),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                collate_fn=dict(type='default_collate'),
                sampler=dict(type='InfiniteSampler', shuffle=shuffle),
                dataset=dict(type='TinyImages', **dataset),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=steps),
            optim_wrapper=dict(type=wrapper, optimizer=dict(optimizer)),
            param_scheduler=dict(type='MultiStepLR', by_epoch=False, milestones=[4]),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3),
                logger=dict(type='LoggerHook', interval=1),
            ),
            randomness=dict(seed=3),
            env_cfg=dict(cudnn_benchmark=False),
        )
    )


def integer(folder, *args, **kwargs):
    """The same in integers, in the two lines that a user adds."""
    cfg = stock(folder, *args, **kwargs)
    cfg.runner_type = 'IntRunner'
    cfg.integer = dict(bits=8)
    return cfg


def by_hand(folder):
    """The same in integers, written out."""
    cfg = stock(folder, dict(SGD, type='IntSGD'), 'IntOptimWrapper')
    cfg.custom_hooks = [dict(type='IntTrainingHook', bits=8)]
    return cfg


def train(cfg):
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.train()
    return runner


def state(runner):
    """Everything that a run leaves: weights, running averages, momentum."""
    momentum = runner.optim_wrapper.optimizer.state_dict()['state']
    weights = dict(runner.model.state_dict())
    return weights | {f'momentum {k}': v['momentum_buffer'] for k, v in momentum.items()}


def assert_same(one, other):
    one, other = state(one), state(other)
    assert list(one) == list(other) and len(one) == 11 + 8
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def read_log(folder):
    return '\n'.join(path.read_text() for path in sorted(folder.glob('*/*.log')))


# What a config gives


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
    assert re.search(r'Conv2d +IntConv2d +8 +2 +\d+ +stem, body', log)
    assert re.search(r'BatchNorm2d +IntBatchNorm2d +8 +1 +12 +norm', log)


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
from mmengine.optim import OptimWrapper
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


# Reproducible


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    first = train(integer(tmp_path / 'a'))
    assert_same(first, train(integer(tmp_path / 'b')))
    cfg = integer(tmp_path / 'c')
    cfg.randomness.seed = 4
    assert not torch.equal(train(cfg).model.stem.weight, first.model.stem.weight)


def test_the_number_of_threads_does_not_matter(tmp_path):
    runners = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        runners.append(train(integer(tmp_path / str(threads))))
    assert_same(*runners)


class Interrupt(Hook):
    """Ends a run in the middle of its fifth iteration, as a crash would."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 4:
            raise KeyboardInterrupt


def test_a_run_resumed_after_an_interruption_continues_bit_for_bit(tmp_path):
    whole = train(integer(tmp_path / 'a'))
    cfg = integer(tmp_path / 'b')
    runner = RUNNERS.build(cfg)
    runner.register_hook(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert (tmp_path / 'b' / 'last_checkpoint').read_text().endswith('iter_3.pth')
    cfg = integer(tmp_path / 'b')
    cfg.resume = True
    resumed = train(cfg)
    assert resumed.iter == 6
    assert_same(resumed, whole)


def test_mmengines_activation_checkpointing_draws_the_same_bits(tmp_path):
    cfg = integer(tmp_path / 'a')
    cfg.activation_checkpointing = ['body']
    assert_same(train(cfg), train(integer(tmp_path / 'b')))


def test_an_integer_checkpoint_loads_into_the_float_model_and_back(tmp_path):
    runner = train(integer(tmp_path / 'a'))
    checkpoint = torch.load(tmp_path / 'a' / 'iter_6.pth', weights_only=False)
    TinyClassifier().load_state_dict(checkpoint['state_dict'], strict=True)
    for kind, make in (('float', stock), ('int', integer)):
        cfg = make(tmp_path / kind, steps=9)
        cfg.merge_from_dict(dict(load_from=str(tmp_path / 'a' / 'iter_6.pth'), resume=True))
        continued = train(cfg)
        assert continued.iter == 9
        assert not torch.equal(continued.model.stem.weight, runner.model.stem.weight)


# Bad input


def test_the_wrapper_refuses_another_optimizer(tmp_path):
    with pytest.raises(TypeError, match='given the optimizer Adam, IntSGD is accepted'):
        train(stock(tmp_path, dict(type='Adam', lr=1e-3), 'IntOptimWrapper'))


@pytest.mark.parametrize('wrapper', ['AmpOptimWrapper', 'mmengine.AmpOptimWrapper'])
def test_mixed_precision_is_refused(tmp_path, wrapper):
    with pytest.raises(ValueError, match='AmpOptimWrapper, integer training needs no mixed'):
        RUNNERS.build(integer(tmp_path, wrapper=wrapper))


def test_a_nan_in_the_image_stops_the_run_and_names_layer_tensor_and_iteration(tmp_path):
    """Image 9 is in the third batch of four, iteration 2; the weights stay finite."""
    runner = RUNNERS.build(integer(tmp_path, shuffle=False, spoilt=9))
    with pytest.raises(NonFiniteError) as error:
        runner.train()
    message = 'stem was given an input with infinite or NaN values in iteration 2, '
    assert str(error.value).startswith(message) and '\n' not in str(error.value)
    assert runner.iter == 2
    assert all(p.isfinite().all() for p in runner.model.parameters())


@pytest.mark.parametrize('dtype', ['float16', 'float64', 'uint8'])
def test_an_image_that_is_not_float32_stops_the_run_and_names_the_layer(tmp_path, dtype):
    with pytest.raises(TypeError, match=f'^stem was given an input of torch.{dtype}, '):
        train(integer(tmp_path, dtype=dtype))


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(bits=3), '^bits=3 was given, integers from 4 to 16 are accepted'),
        (dict(layer_bits=dict(head=20)), '^bits=20 was given, integers from 4 to 16'),
        (dict(include=['backbone']), "^the pattern 'backbone' was given, which matches no module"),
    ],
)
def test_bad_settings_stop_the_run_before_it_starts(tmp_path, settings, message):
    cfg = integer(tmp_path)
    cfg.integer = settings
    runner = RUNNERS.build(cfg)
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not any(isinstance(m, IntLayer) for m in runner.model.modules())
    assert not list(tmp_path.glob('*.pth'))


def test_an_unknown_setting_is_named(tmp_path):
    cfg = integer(tmp_path)
    cfg.integer = dict(bit=8)
    with pytest.raises(TypeError, match="'bit'"):
        RUNNERS.build(cfg)


def test_settings_in_two_places_are_refused(tmp_path):
    cfg = integer(tmp_path)
    cfg['custom_hooks'] = [dict(type='IntTrainingHook', bits=7)]
    with pytest.raises(ValueError, match='an IntTrainingHook of its own and the key `integer`'):
        to_integer(cfg)


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


def test_a_missing_file_of_the_data_says_what_to_do(tmp_path):
    def missing(**kwargs):
        open(tmp_path / 'no.json')

    cfg = integer(tmp_path)
    DATASETS.register_module(name='MissingFile', module=missing, force=True)
    cfg['train_dataloader']['dataset'] = dict(type='MissingFile')
    with pytest.raises(FileNotFoundError, match=r'needs .*no.json, which does not exist: put the'):
        RUNNERS.build(cfg).train()


def test_a_layer_is_built_by_name_from_any_scope():
    from mmcv.cnn import build_conv_layer
    from mmengine.registry import init_default_scope

    for scope in ('mmdet', 'mmseg', 'mmpretrain'):
        init_default_scope(scope)
        layer = build_conv_layer(dict(type='IntConv2d', bits=6), 3, 8, 3, padding=1)
        assert isinstance(layer, IntConv2d) and layer.bits == 6
    init_default_scope('mmengine')
