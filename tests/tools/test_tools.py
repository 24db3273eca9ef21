"""The command line: our tools, and the stock ones of mmdet, mmseg and mmpretrain unchanged."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmengine')

ROOT = Path(__file__).resolve().parents[2]

MODEL = """
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn


@MODELS.register_module()
class ToolModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, image, label, mode='tensor'):
        scores = self.head(self.conv(image).relu().mean((2, 3)))
        if mode == 'loss':
            return dict(loss=nn.functional.cross_entropy(scores, label))
        return [dict(right=float((scores.argmax(1) == label).float().mean()))]


@DATASETS.register_module()
class ToolData(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(image=torch.randn(3, 8, 8, generator=generator), label=index % 2)


@METRICS.register_module()
class ToolMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(accuracy=sum(r['right'] for r in results) / len(results))
"""

# No key that the integer base defines: mmengine refuses two bases with the same key.
FLOAT_CONFIG = """
default_scope = 'mmengine'
model = dict(type='ToolModel')
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='ToolData'),
)
test_dataloader = dict(train_dataloader, sampler=dict(type='DefaultSampler', shuffle=False))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
test_cfg = dict()
test_evaluator = dict(type='ToolMetric')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
)
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
    logger=dict(type='LoggerHook', interval=1),
)
randomness = dict(seed=0)
"""

PLAIN_CONFIG = """
_base_ = 'float.py'
custom_imports = dict(imports=['tool_model'])
"""

INTEGER_CONFIG = """
_base_ = 'float.py'
custom_imports = dict(imports=['mmint', 'tool_model'])
runner_type = 'IntRunner'
integer = dict(bits=8)
"""

INHERITING_CONFIG = """
_base_ = ['float.py', 'mmint::_base_/int8.py']
custom_imports = dict(imports=['mmint', 'tool_model'])
"""


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    """A folder with a model of the user's own, its float config and two integer ones."""
    folder = tmp_path_factory.mktemp('configs')
    (folder / 'tool_model.py').write_text(MODEL)
    (folder / 'float.py').write_text(FLOAT_CONFIG)
    (folder / 'plain.py').write_text(PLAIN_CONFIG)
    (folder / 'integer.py').write_text(INTEGER_CONFIG)
    (folder / 'inheriting.py').write_text(INHERITING_CONFIG)
    return folder


@pytest.fixture(scope='module')
def trained(configs):
    """The work dir of two iterations."""
    done = train(configs, 'integer.py', '--work-dir', 'trained')
    assert_worked(done)
    assert 'Integer layers, ' in done.stdout + done.stderr
    return configs / 'trained'


def run(folder, tool, *arguments):
    """The finished command, run in ``folder``."""
    path = os.pathsep.join([str(ROOT), str(folder), os.environ.get('PYTHONPATH', '')])
    return subprocess.run(
        [sys.executable, str(tool), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': path, 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def train(folder, *arguments):
    return run(folder, ROOT / 'tools' / 'train.py', *arguments)


def assert_worked(done):
    assert done.returncode == 0, done.stderr[-3000:]


def assert_same_weights(path, other):
    one, other = (torch.load(p, weights_only=False)['state_dict'] for p in (path, other))
    assert list(one) == list(other) and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.slow
def test_resumed_from_the_last_checkpoint_it_is_the_same_run(configs, trained):
    """Four iterations at once, in the other spelling of the config; and two, then two more."""
    options = ['--cfg-options', 'train_cfg.max_iters=4']
    assert_worked(train(configs, 'inheriting.py', '--work-dir', 'whole', *options))
    shutil.copytree(trained, configs / 'parts')
    (configs / 'parts' / 'last_checkpoint').write_text(str(configs / 'parts' / 'iter_2.pth'))
    assert_worked(train(configs, 'integer.py', '--work-dir', 'parts', '--resume', *options))
    assert_same_weights(configs / 'whole' / 'iter_4.pth', configs / 'parts' / 'iter_4.pth')


@pytest.mark.slow
def test_resumed_from_a_checkpoint_that_is_named_it_is_the_same_run(configs, trained):
    named = trained / 'iter_1.pth'
    assert_worked(train(configs, 'integer.py', '--work-dir', 'named', '--resume', named))
    assert_same_weights(trained / 'iter_2.pth', configs / 'named' / 'iter_2.pth')


@pytest.mark.slow
def test_test_evaluates_a_checkpoint_in_integers(configs, trained):
    done = run(
        configs, ROOT / 'tools' / 'test.py', 'integer.py', trained / 'iter_2.pth',
        '--work-dir', 'tested', '--out', 'predictions.pkl',
    )  # fmt: skip
    assert_worked(done)
    assert 'accuracy' in done.stdout + done.stderr
    assert 'Integer layers, ' in done.stdout + done.stderr
    assert (configs / 'predictions.pkl').exists()


@pytest.mark.slow
def test_a_float_config_trains_as_ever_and_is_where_the_work_dir_gets_its_name(configs):
    done = train(configs, 'plain.py')
    assert_worked(done)
    assert 'Integer layers' not in done.stdout + done.stderr
    assert (configs / 'work_dirs' / 'plain' / 'iter_2.pth').exists()


@pytest.mark.slow
def test_amp_is_refused_with_one_sentence(configs):
    done = train(configs, 'integer.py', '--work-dir', 'amp', '--amp')
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert 'the optimizer wrapper AmpOptimWrapper, integer training needs no mixed' in last
    assert not list((configs / 'amp').rglob('*.pth'))


@pytest.mark.slow
def test_an_output_that_is_no_pickle_is_refused(configs):
    done = run(configs, ROOT / 'tools' / 'test.py', 'integer.py', 'x.pth', '--out', 'x.json')
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith('that ends in .pkl or .pickle is accepted')


def stock_tools():
    """The packages that are installed and ship their tools."""
    for package in ('mmdet', 'mmseg', 'mmpretrain'):
        spec = find_spec(package)
        if spec:
            tool = Path(spec.origin).parent / '.mim' / 'tools' / 'train.py'
            if tool.exists():
                yield pytest.param(tool, id=package)


@pytest.mark.slow
@pytest.mark.parametrize('tool', list(stock_tools()))
def test_stock_tools_run_an_integer_config_unchanged(configs, trained, tool):
    work_dir = configs / tool.parts[-4]
    done = run(configs, tool, 'integer.py', '--work-dir', work_dir)
    assert_worked(done)
    assert 'Integer layers, ' in done.stdout + done.stderr
    assert_same_weights(trained / 'iter_2.pth', work_dir / 'iter_2.pth')
