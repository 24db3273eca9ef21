"""The digits data set: the same files from the same seed, and the stock classes read them."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmint.openmmlab.datasets import digits
from mmint.openmmlab.datasets.digits import DigitsSettings, make_digits

ROOT = Path(digits.__file__).parents[3]
SMALL = DigitsSettings(seed=1, train=16, val=8, size=96)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'digits'
    assert make_digits(out, SMALL)
    return out


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def annotations(data, split):
    return json.loads((data / 'annotations' / f'{split}.json').read_text())


TOOL = ROOT / 'tools' / 'make_digits.py'


def run_tool(monkeypatch, *arguments):
    """The command in this process."""
    monkeypatch.setattr(sys, 'argv', ['make_digits.py', *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')


def test_same_seed_same_bytes(data, tmp_path):
    settings = ['--seed', '1', '--train', '16', '--val', '8', '--size', '96']
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    subprocess.run(
        [sys.executable, TOOL, '--out', tmp_path / 'd', *settings],
        env={**os.environ, 'PYTHONPATH': path},
        check=True,
    )
    assert contents(tmp_path / 'd') == contents(data)
    assert [p.name for p in tmp_path.iterdir()] == ['d']


def test_an_image_does_not_depend_on_their_number(data, tmp_path):
    make_digits(tmp_path / 'd', DigitsSettings(seed=1, train=3, val=2, size=96))
    for name, blob in contents(tmp_path / 'd').items():
        if name.suffix == '.png':
            assert blob == (data / name).read_bytes()


def test_another_seed_another_set(data, tmp_path):
    make_digits(tmp_path / 'd', DigitsSettings(seed=2, train=2, val=1, size=96))
    name = 'train/000000.png'
    assert (tmp_path / 'd' / name).read_bytes() != (data / name).read_bytes()


def test_no_scan_in_both_splits(data):
    used = [{a['scan'] for a in annotations(data, split)['annotations']} for split in digits.SPLITS]
    assert used[0] and used[1] and not used[0] & used[1]


def test_the_split_is_whole_and_stratified():
    from sklearn.datasets import load_digits

    labels = load_digits().target
    train, val = digits._split_scans(labels, 0)
    assert sorted([*train, *val]) == list(range(1797))
    for label in range(10):
        share = (labels[val] == label).sum() / (labels == label).sum()
        assert 0.19 < share <= 0.2


@pytest.mark.parametrize('split', digits.SPLITS)
def test_boxes_and_masks(data, split):
    from pycocotools import mask as coco_mask
    from sklearn.datasets import load_digits

    labels = load_digits().target
    content = annotations(data, split)
    assert [c['name'] for c in content['categories']] == list(digits.CLASSES)
    assert len(content['images']) == getattr(SMALL, split)
    for image in content['images']:
        semantic = cv2.imread(str(data / 'masks' / split / image['file_name']), -1)
        pixels = cv2.imread(str(data / split / image['file_name']), -1)
        assert semantic.shape == (96, 96) and pixels.shape == (96, 96, 3)
        expected = np.zeros_like(semantic)
        here = [a for a in content['annotations'] if a['image_id'] == image['id']]
        assert 2 <= len(here) <= 6
        for a in here:
            rle = coco_mask.frPyObjects(a['segmentation'], 96, 96)
            mask = coco_mask.decode(rle).astype(bool)
            assert not expected[mask].any()  # only what is visible
            expected[mask] = a['category_id']
            assert a['category_id'] == labels[a['scan']] + 1
            assert a['area'] == mask.sum() > 0 and a['iscrowd'] == 0
            x, y, width, height = a['bbox']
            assert x >= 0 and y >= 0 and x + width <= 96 and y + height <= 96
            inside = mask[y : y + height, x : x + width]
            assert inside.sum() == mask.sum()
            assert inside[0].any() and inside[-1].any()
            assert inside[:, 0].any() and inside[:, -1].any()
        assert np.array_equal(semantic, expected)


def test_the_same_set_is_left_alone(data, monkeypatch, capsys):
    before = {p: p.stat().st_mtime_ns for p in data.rglob('*')}
    assert not make_digits(data, SMALL)
    assert before == {p: p.stat().st_mtime_ns for p in data.rglob('*')}
    run_tool(monkeypatch, '--out', data, '--seed', 1, '--train', 16, '--val', 8, '--size', 96)
    assert 'left as it is' in capsys.readouterr().out


def test_other_settings_are_refused(data, monkeypatch, capsys):
    with pytest.raises(FileExistsError, match='seed 1.*seed 5.*remove it or choose'):
        make_digits(data, DigitsSettings(seed=5))
    with pytest.raises(SystemExit) as exit_:
        run_tool(monkeypatch, '--out', data, '--seed', 5)
    assert exit_.value.code == 2 and 'remove it' in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / 'thesis.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='no digits data set'):
        make_digits(tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']


def test_a_set_with_a_hole_is_refused(tmp_path):
    settings = DigitsSettings(train=1, val=1, size=64)
    make_digits(tmp_path / 'd', settings)
    (tmp_path / 'd/masks/val/000000.png').unlink()
    with pytest.raises(FileExistsError, match='masks/val/000000.png'):
        make_digits(tmp_path / 'd', settings)


def test_a_crash_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(path, image):
        raise OSError('no space left')

    monkeypatch.setattr(digits, '_write_png', full_disk)
    with pytest.raises(OSError, match='no space'):
        make_digits(tmp_path / 'd', SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('bad', [{'size': 32}, {'train': 0}, {'val': -1}, {'seed': -1}])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=f'{next(iter(bad))} is .* must lie in'):
        DigitsSettings(**bad)


@pytest.fixture
def openmmlab():
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    from mmint.openmmlab.compat.mmcv_ops import provide_mmcv_ops

    provide_mmcv_ops()


def base_config(name, data):
    """The dataset of a base config as the project ships it, on this folder."""
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / name)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(data) + '/'
    return cfg


def test_stock_coco_dataset(openmmlab, data):
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    cfg = base_config('digits_detection.py', data)
    train_set = cfg.train_dataloader.dataset
    train_set.pipeline[1].with_mask = True
    dataset = DATASETS.build(train_set)
    assert len(dataset) == 16 and dataset.metainfo['classes'] == digits.CLASSES
    count = 0
    for item in dataset:
        instances = item['data_samples'].gt_instances
        assert item['inputs'].shape == (3, 128, 128)
        masks = instances.masks.to_ndarray()
        assert masks.any(axis=(1, 2)).all() and len(masks) == len(instances.bboxes)
        count += len(masks)
    assert count == len(annotations(data, 'train')['annotations'])
    assert len(DATASETS.build(cfg.val_dataloader.dataset)) == 8


def test_seg_dataset(openmmlab, data):
    from mmengine.registry import DATASETS, init_default_scope

    init_default_scope('mmseg')
    cfg = base_config('digits_segmentation.py', data)
    for loader, number in ((cfg.train_dataloader, 16), (cfg.val_dataloader, 8)):
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == number
    assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 11
    for i, item in enumerate(dataset):
        semantic = cv2.imread(str(data / 'masks/val' / f'{i:06d}.png'), -1)
        assert np.array_equal(item['data_samples'].gt_sem_seg.data[0].numpy(), semantic)


def test_missing_files_are_named(openmmlab, tmp_path):
    from mmint.openmmlab.datasets.digits_segmentation import DigitsSegDataset

    prefix = dict(img_path='train', seg_map_path='masks/train')
    with pytest.raises(FileNotFoundError, match=r'train does not exist.*make_digits.py --out'):
        DigitsSegDataset(data_root=str(tmp_path / 'no'), data_prefix=prefix)
    make_digits(tmp_path / 'd', DigitsSettings(train=2, val=1, size=64))
    (tmp_path / 'd/masks/train/000001.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'000001.png does not exist'):
        DigitsSegDataset(data_root=str(tmp_path / 'd'), data_prefix=prefix)
