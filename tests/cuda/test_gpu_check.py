"""`tools/gpu_check.sh` from end to end without a card: in the emulator, above the stub driver."""

import json
import os
import subprocess
import sys
from pathlib import Path

import driver_stub
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(driver_stub.why_not()), reason=str(driver_stub.why_not())),
]

TINY = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=4,
                  num_stages=1, strides=(2,), dilations=(1,), out_indices=(0,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=4,
              loss=dict(type='CrossEntropyLoss')),
)
data_preprocessor = dict(num_classes=10, mean=[128] * 3, std=[64] * 3)
train_dataloader = dict(dataset=dict(pipeline=[dict(type='PackInputs')]))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
"""


def test_every_part_in_turn(tmp_path):
    """A part that fails does not stop the next, and every result is in both tables."""
    pytest.importorskip('mmpretrain')
    folder = driver_stub.built()
    (tmp_path / 'tiny.py').write_text(TINY)
    environment = {
        **driver_stub.environment(tmp_path / 'record', folder),
        'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
        'PYTHON': str(driver_stub.HERE / 'rehearse.py'),
        'DETECTOR': str(tmp_path / 'tiny.py'),
        'CLASSIFIER': str(tmp_path / 'missing.py'),
        'SLOWER': '100',
    }
    command = ['bash', str(driver_stub.ROOT / 'tools' / 'gpu_check.sh'), str(tmp_path / 'out')]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    rows = {row['part']: row for row in json.loads((tmp_path / 'out/gpu_check.json').read_text())}
    outcomes = {part: row['outcome'] for part, row in rows.items()}
    assert outcomes.pop('sanitizer') in ('not installed', 'passed')
    assert outcomes == {
        'card': 'passed', 'smoke': 'passed', 'tests': 'passed',
        'ops': 'passed', 'detector': 'passed', 'classifier': 'failed (1)', 'graph': 'passed',
        'hottest': 'passed',
    }  # fmt: skip
    assert 'NVIDIA Stand-in' in rows['card']['says']
    assert len(rows['ops']['result']) == 6
    assert all(made['exact'] for made in rows['ops']['result'])
    assert rows['detector']['result']['int8_ms'] > 0
    table = (tmp_path / 'out/gpu_check.md').read_text()
    assert sum(line.startswith('| --- |') for line in table.splitlines()) == 3
    assert 'NVIDIA Stand-in' in table and 'tiny.py' in table and '16x16x16' in table
    record = (tmp_path / 'record').read_text().splitlines()
    assert not [line for line in record if line.startswith('WRONG')]
