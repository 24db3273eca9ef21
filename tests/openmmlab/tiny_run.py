"""A run of mmengine's Runner that takes a second: a tiny model on random images."""

import itertools

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmint  # noqa: F401

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
