"""The quickstart in miniature: the same path, fewer images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_quickstart_trains_both_models_and_compares_them(tmp_path):
    work_dir = tmp_path / 'work'
    arguments = ('--work-dir', work_dir, '--data-root', tmp_path / 'digits')
    subprocess.run(
        [sys.executable, 'tools/quickstart.py', *arguments, '--images', '16', '8', '--epochs', '1'],
        cwd=ROOT,
        check=True,
    )
    summary = json.loads((work_dir / 'summary.json').read_text())
    assert summary.keys() == {'float', 'int8', 'backend', 'train_minutes'}
    for kind in ('float', 'int8'):
        assert summary[kind].keys() == {'bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75'}
        assert summary['train_minutes'][kind] > 0
    assert 'float32' in (work_dir / 'summary.md').read_text()
    assert (work_dir / 'loss.png').read_bytes().startswith(b'\x89PNG')
