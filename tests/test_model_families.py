"""Stock detectors and segmenters inherit the base config, convert, and train on the digits."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS

import mmint  # noqa: F401
from mmint.layers import IntConv2d
from mmint.openmmlab.digits import DigitsSettings, make_digits
from mmint.optim import IntSGD

CONFIGS = Path(__file__).parents[1] / 'configs'
ITERATIONS = 3


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'digits'
    make_digits(root, DigitsSettings(seed=0, train=8, val=4, size=128))
    return root


def digits_config(name, kind, digits, tmp_path):
    """The config ``name`` with the digits as its data and no pretrained weights."""
    cfg = Config.fromfile(CONFIGS / name)
    data = Config.fromfile(CONFIGS / '_base_' / f'digits_{kind}.py')
    for split in ('train', 'val', 'test'):
        loader = copy.deepcopy(data[f'{split}_dataloader'])
        loader.batch_size = 2
        loader.sampler = dict(type='DefaultSampler', shuffle=False)
        loader.dataset.data_root = f'{digits}/'
        cfg[f'{split}_dataloader'] = loader
        if split != 'train':
            cfg[f'{split}_evaluator'] = data[f'{split}_evaluator']
            cfg[f'{split}_cfg'] = dict(type=f'{split.title()}Loop')
    if kind == 'detection':
        cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = f'{digits}/annotations/val.json'
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=ITERATIONS, val_interval=ITERATIONS)
    cfg.default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
    cfg.log_processor = dict(by_epoch=False)
    cfg.model.backbone.init_cfg = None
    if 'pretrained' in cfg.model:
        cfg.model.pretrained = None
    cfg.randomness = dict(seed=0)
    cfg.work_dir = str(tmp_path)
    cfg.load_from = None
    return cfg


def train(cfg):
    runner = RUNNERS.build(cfg)
    runner.train()
    assert isinstance(runner.optim_wrapper.optimizer, IntSGD)
    convolutions = [m for m in runner.model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions and all(isinstance(m, IntConv2d) for m in convolutions)
    return runner


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('quickstart/faster-rcnn_r18_fpn_int8_digits.py', 'detection'),
        ('ssd/ssd300_int8_coco.py', 'detection'),
        ('deeplabv3/deeplabv3_r50-d8_int8-20k_voc12aug-512x512.py', 'segmentation'),
    ],
)
def test_a_stock_model_trains_in_integers(name, kind, digits, tmp_path):
    cfg = digits_config(name, kind, digits, tmp_path)
    if name.startswith('ssd'):
        # mmdet's own SSDHead cannot predict: it lacks the `loss_cls` that its base class reads.
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.model.bbox_head.num_classes = 10
        for step in cfg.train_dataloader.dataset.pipeline:
            if step.type == 'Resize':
                step.update(scale=(300, 300), keep_ratio=False)
    runner = train(cfg)
    history, _ = runner.message_hub.get_scalar('train/loss').data
    assert len(history) == ITERATIONS
    assert all(torch.isfinite(torch.tensor(history)))
