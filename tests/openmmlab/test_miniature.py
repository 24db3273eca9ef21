"""The stock data sets of the stock configs read the miniature ones, through whole pipelines."""

from pathlib import Path

import miniature
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

import mmint  # noqa: F401

CONFIGS = Path(__file__).parents[2] / 'configs'
BCCD = CONFIGS / '_base_/bccd.py'
CIFAR10_JPEG = CONFIGS / 'resnet/resnet14-w16_2e_cifar10-jpeg.py'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('miniature')
    miniature.make_all(root)
    return root


def check_boxes(sample, classes):
    instances = sample.gt_instances
    assert len(instances) > 0
    assert (instances.bboxes.widths >= 32).all() and (instances.bboxes.heights >= 32).all()
    assert 0 <= instances.labels.min() and instances.labels.max() < classes


def check_masks(sample, classes):
    check_boxes(sample, classes)
    assert sample.gt_instances.masks.to_ndarray().any((1, 2)).all()


def check_map(sample, classes):
    found = set(sample.gt_sem_seg.data.unique().tolist()) - {255}
    assert found and found <= set(range(classes))


def check_label(sample, classes):
    assert 0 <= sample.gt_label.item() < classes


@pytest.mark.parametrize(
    ('scope', 'name', 'lengths', 'classes', 'check'),
    [
        ('mmdet', 'coco_detection', (4, 2), 80, check_boxes),
        ('mmdet', 'coco_instance', (4, 2), 80, check_masks),
        ('mmdet', 'voc0712', (3 * 12, 2), 20, check_boxes),
        ('mmdet', 'cityscapes_detection', (8 * 4, 2), 8, check_boxes),
        ('mmdet', 'cityscapes_instance', (8 * 4, 2), 8, check_masks),
        ('mmdet', BCCD, (6, 2), 3, check_boxes),
        ('mmseg', 'pascal_voc12_aug', (8, 2), 21, check_map),
        ('mmseg', 'cityscapes', (4, 2), 19, check_map),
        ('mmseg', 'cityscapes_1024x1024', (4, 2), 19, check_map),
        ('mmseg', 'coco-stuff10k', (4, 2), 171, check_map),
        ('mmseg', 'ade20k', (4, 2), 150, check_map),
        ('mmpretrain', 'cifar10_bs16', (4, 2), 10, check_label),
        ('mmpretrain', 'cifar100_bs16', (4, 2), 100, check_label),
        ('mmpretrain', 'imagenet_bs32', (4, 2), 1000, check_label),
        ('mmpretrain', CIFAR10_JPEG, (10, 10), 10, check_label),
    ],
)
def test_a_stock_config_reads_it(scope, name, lengths, classes, check, root, monkeypatch):
    base = str(name) if isinstance(name, Path) else f'{scope}::_base_/datasets/{name}.py'
    cfg = Config.fromstring(f'_base_ = {base!r}', '.py')
    init_default_scope(scope)
    miniature.accept_cifar(monkeypatch)
    monkeypatch.chdir(root)
    for loader, length in zip((cfg.train_dataloader, cfg.val_dataloader), lengths, strict=True):
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == length
        assert len(dataset.metainfo['classes']) == classes
        item = dataset[0]
        assert item['inputs'].dim() == 3
        check(item['data_samples'], classes)
