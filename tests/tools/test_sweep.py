"""The sweep: which configs it tries, what it keeps of each, and the page that it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmengine')

import sweep_page
from stock_configs import smallness

ROOT = Path(__file__).resolve().parents[2]

MODELS = """
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn


@MODELS.register_module()
class Classifier(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )

    def forward(self, inputs, labels, mode='tensor'):
        scores = self.net(torch.stack(inputs).float() / 255)
        return dict(loss=nn.functional.cross_entropy(scores, torch.tensor(labels)))


@MODELS.register_module()
class Greedy(Classifier):
    def forward(self, *args, **kwargs):
        return dict(loss=torch.ones(10**10))


@MODELS.register_module()
class Endless(Classifier):
    def forward(self, *args, **kwargs):
        while True:
            pass
"""
DATASETS = """
import torch
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PackTiny:
    def __call__(self, sample):
        image = torch.from_numpy(sample['img']).permute(2, 0, 1)
        return dict(inputs=image, labels=sample['gt_label'] % 2)
"""
CONFIG = """
default_scope = 'mmengine'
model = dict(type='{model}')
pipeline = [dict(type='Resize'), dict(type='PackTiny')]
train_dataloader = dict(dataset=dict(type='Any', pipeline=pipeline))
optim_wrapper = dict(
    type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(type='SGD', lr=0.1, momentum=0.9)
)
"""


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
    """A package of configs that was swept, and what the sweep printed the second time."""
    folder = tmp_path_factory.mktemp('packages')
    package = folder / 'tinymm'
    (package / '.mim/configs').mkdir(parents=True)
    (package / '__init__.py').touch()
    (package / 'models.py').write_text(MODELS)
    (package / 'datasets.py').write_text(DATASETS)
    configs = dict(classifier='Classifier', greedy='Greedy', endless='Endless')
    for name, model in configs.items():
        (package / '.mim/configs' / name).mkdir()
        text = CONFIG.format(model=model)
        (package / '.mim/configs' / name / f'{name}-tiny.py').write_text(text)
        (package / '.mim/configs' / name / f'{name}.py').write_text('model = None')
        (package / '.mim/configs' / name / f'{name}-large.py').write_text(text)
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tools'), str(folder)])
    code = "import sweep; sweep.SIZES = {'tinymm': [(8, 8)]}; sweep.main()"

    def run(*arguments):
        options = ('--out', 'sweep.jsonl', '--seconds', '4', '--memory', '4', *arguments)
        return subprocess.run(
            [sys.executable, '-c', code, *options],
            cwd=folder,
            env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()

    first = run('--only', 'classifier')
    second = run()
    run('--page', 'page.md')
    results = [json.loads(line) for line in (folder / 'sweep.jsonl').read_text().splitlines()]
    return results, first, second, (folder / 'page.md').read_text()


@pytest.mark.slow
def test_one_config_of_every_folder_takes_a_step_in_float_and_in_int8(swept):
    results, first, *_ = swept
    names = [result['config'] for result in results]
    assert names == [f'tinymm::{n}/{n}-tiny.py' for n in ('classifier', 'endless', 'greedy')]
    result = results[0]
    assert result['float']['loss'] == pytest.approx(result['int8']['loss'], rel=0.02)
    assert result['int8']['share'] == result['int8']['share_with_optimizer'] == 1
    assert first[-1].startswith(
        '1/1, 0 min left: tinymm::classifier/classifier-tiny.py int8 100.00 %'
    )


@pytest.mark.slow
def test_limits_are_results_with_their_reason(swept):
    _, endless, greedy = swept[0]
    assert endless['float'] == dict(error='over 4 s') and 'int8' not in endless
    assert 'memory' in greedy['float']['error'] and 'int8' not in greedy


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_stopped(swept):
    second = swept[2]
    assert second[-2].startswith('1/2, ') and second[-1].startswith('2/2, ')
    assert not any('classifier' in line for line in second)


@pytest.mark.slow
def test_the_page_is_written_from_the_results(swept):
    page = swept[3]
    assert '3 in all' in page and '| run in float | 1 |' in page
    assert '| `endless/endless-tiny` | over 4 s |' in page


def result(config, share=1.0, int8=None, remains=()):
    int8 = int8 or dict(loss=2.0, share=share, share_with_optimizer=0.9, remains=list(remains))
    return dict(config=config, float=dict(loss=2.01), int8=int8)


def test_the_page_names_the_causes():
    cause = ['linear', 'mm', 'roi_head.*.fc', 0.0712]
    page = sweep_page.page(
        [
            result('mmdet::detr/detr_r50.py', share=0.99949),
            result('mmdet::sabl/sabl_r50.py', share=0.92879, remains=[cause]),
            result('mmseg::fcn/fcn_r18.py', int8=dict(error='ValueError: no')),
            dict(config='mmseg::vpd/vpd.py', float=dict(error='ModuleNotFoundError: diffusers')),
        ]
    )
    for row in (
        '| run in float | 3 |',
        '| of those, run in int8 | 2 |',
        '| at least 99.9 % integer | 1 |',
        '| less than 95 % integer | 1 |',
        "| first loss within 5 % of float's | 2 |",
        '| `fcn/fcn_r18` | ValueError: no |',
        '| `sabl/sabl_r50` | 92.87 % | linear 7.12 % (`roi_head.*.fc`) |',
        '| `detr/detr_r50` | 99.94 % | 90.00 % | 2.01 | 2 |  |',
        '| `vpd/vpd` | ModuleNotFoundError: diffusers |',
    ):
        assert row in page


@pytest.mark.parametrize(
    ('smaller', 'larger'),
    [
        ('retinanet_r18_fpn_1x', 'retinanet_r50_fpn_1x'),
        ('faster-rcnn_r50_fpn_1x', 'faster-rcnn_x101-32x4d_fpn_1x'),
        ('rtmdet_tiny_8xb32', 'rtmdet_l_8xb32'),
        ('resnet18_8xb32_in1k', 'resnet50_8xb32_in1k'),
        ('vit-base-p16', 'vit-huge-p14'),
        ('detr_r50', 'detr_r50_ms'),
    ],
)
def test_the_name_tells_which_config_is_smaller(smaller, larger):
    assert smallness(Path(f'{smaller}.py')) < smallness(Path(f'{larger}.py'))
