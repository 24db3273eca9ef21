"""The families that `benchmark.py families` trains."""

import json
from argparse import Namespace

import pytest
import torch
from benchmarks import families
from synthetic_step import load_config

KEYS = {'family', 'config', 'batch', 'size', 'threads', 'int8_ms', 'float_ms', 'ratio',
        'int8_peak_mb', 'float_peak_mb'}  # fmt: skip


@pytest.mark.slow
def test_every_family_has_a_config_that_loads():
    assert len({family.name for family in families.FAMILIES}) == 20
    for family in families.FAMILIES:
        assert load_config(family.path).model


def test_an_unknown_family_is_named_with_those_that_there_are():
    with pytest.raises(SystemExit, match=r"\['YOLOv9'\].*'YOLOF R50'"):
        families.families(Namespace(only=['YOLOv9'], json=None, seconds=0))


@pytest.fixture
def restored_threads():
    """The number of threads is another test's matter again."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures('restored_threads')
def test_a_family_has_a_row_for_each_number_of_threads(tmp_path, monkeypatch):
    family = next(f for f in families.FAMILIES if f.name == 'ShuffleNetV2')
    monkeypatch.setattr(families, 'FAMILIES', (family._replace(batch=8, size=(64, 64)),))
    file = tmp_path / 'rows.json'
    families.families(Namespace(only=None, json=str(file), seconds=0))
    rows = json.loads(file.read_text())
    assert [row['threads'] for row in rows] == [1, 2]
    for row in rows:
        assert set(row) == KEYS
        assert row['int8_peak_mb'] < row['float_peak_mb']
