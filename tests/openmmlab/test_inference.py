"""Checkpoints of integer training in mmdet's and mmseg's inferencers, in float and in integers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from PIL import Image

import mmint  # noqa: F401
from mmint.conversion import convert
from mmint.layers import IntConv2d
from mmint.openmmlab.datasets.digits import DigitsSettings, make_digits
from mmint.optim import IntSGD

ROOT = Path(__file__).parents[2]
ITERATIONS = 3


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A folder in which the stock paths lead to the digits."""
    root = tmp_path_factory.mktemp('root')
    make_digits(root / 'data' / 'digits', DigitsSettings(seed=0, train=8, val=4, size=128))
    return root


def trained(name, folder):
    """The config ``name`` and the checkpoint of a short training."""
    path = ROOT / 'configs' / 'quickstart' / name
    cfg = Config.fromfile(path)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=ITERATIONS, val_interval=ITERATIONS)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=ITERATIONS)
    cfg.log_processor = dict(by_epoch=False)
    cfg.work_dir = str(folder)
    runner = RUNNERS.build(cfg)
    runner.train()
    assert isinstance(runner.optim_wrapper.optimizer, IntSGD)
    losses, _ = runner.message_hub.get_scalar('train/loss').data
    assert len(losses) == ITERATIONS and torch.tensor(losses).isfinite().all()
    return path, folder / f'iter_{ITERATIONS}.pth'


def detections(result):
    """Boxes of the one image, in order."""
    (prediction,) = result['predictions']
    assert prediction.keys() >= {'bboxes', 'labels', 'scores'}
    return torch.tensor(prediction['bboxes']).view(-1, 4)


def classes(result):
    """The class of every pixel of the one image."""
    prediction = torch.as_tensor(result['predictions'])
    assert prediction.shape == (128, 128) and prediction.max() < 11
    return prediction


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'package', 'inferencer', 'read'),
    [
        ('faster-rcnn_r18_fpn_int8_digits.py', 'mmdet', 'DetInferencer', detections),
        ('deeplabv2_r18-d8_int8_digits.py', 'mmseg', 'MMSegInferencer', classes),
    ],
)
def test_an_integer_checkpoint_predicts(name, package, inferencer, read, root, monkeypatch):
    monkeypatch.chdir(root)
    config, checkpoint = trained(name, root / package)
    apis = pytest.importorskip(f'{package}.apis')
    cfg = Config.fromfile(config)
    if package == 'mmdet':
        cfg.model.test_cfg.rcnn.score_thr = 0.0
    infer = getattr(apis, inferencer)(cfg, str(checkpoint), device='cpu')
    saved = torch.load(checkpoint, weights_only=False)['state_dict']
    assert all(torch.equal(value, saved[key]) for key, value in infer.model.state_dict().items())
    image = str(sorted((root / 'data/digits/val').iterdir())[0])
    in_float = read(infer(image))
    convert(infer.model)
    assert any(isinstance(module, IntConv2d) for module in infer.model.modules())
    in_integers = read(infer(image))
    assert len(in_float) and len(in_integers) and torch.equal(read(infer(image)), in_integers)
    if package == 'mmseg':
        assert (in_integers == in_float).float().mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize('count', [1, 2])
def test_predictions_are_drawn_side_by_side(root, monkeypatch, count):
    monkeypatch.chdir(root)
    config, checkpoint = trained('deeplabv2_r18-d8_int8_digits.py', root / f'drawn {count}')
    images = sorted(map(str, (root / 'data/digits/val').iterdir()))[:count]
    command = [sys.executable, ROOT / 'tools/draw_predictions.py', config, checkpoint, *images]
    subprocess.run([*command, '--out', 'pictures/digits.png', '--height', '64'], check=True)
    assert Image.open('pictures/digits.png').size == (64 * count, 64)
