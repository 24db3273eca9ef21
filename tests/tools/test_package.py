"""What an installation holds, and what is said where the kernels are missing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmint import backends
from mmint.backends import cpu

ROOT = Path(__file__).parents[2]


def test_a_build_ships_configs_and_tools_as_openmmlab_packages_do(tmp_path):
    command = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    mim = tmp_path / 'mmint' / '.mim'
    assert (mim / 'configs/_base_/int8.py').is_file() and (mim / 'tools/train.py').is_file()
    assert (mim / 'model-index.yml').is_file()
    backends = tmp_path / 'mmint' / 'backends'
    assert (backends / 'cuda/sgd.cu').is_file() and (backends / 'arithmetic/sgd.h').is_file()


def test_importing_mmint_leaves_the_core_free_of_openmmlab():
    code = (
        'import sys; sys.modules.update(mmengine=None, mmcv=None)\n'
        'import importlib.util as u; found = u.find_spec\n'
        "u.find_spec = lambda name, *a: None if name.startswith('mm') and '.' not in name "
        'and name != "mmint" else found(name, *a)\n'
        'import torch, mmint\n'
        'model = torch.nn.Sequential(torch.nn.Linear(3, 2)); mmint.convert(model)\n'
        'model(torch.ones(1, 3)).sum().backward()\n'
        'mmint.IntSGD(model.parameters(), lr=0.1).step()\n'
    )
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


@pytest.fixture
def no_kernels(monkeypatch):
    """The C kernels as if they had not been built."""
    monkeypatch.setitem(sys.modules, 'mmint.backends.cpu._kernels', None)
    monkeypatch.delattr(cpu, '_kernels', raising=False)
    monkeypatch.setattr(backends, 'wish', None)
    for cache in (cpu.library.ready, backends._select):
        cache.cache_clear()
    yield
    for cache in (cpu.library.ready, backends._select):
        cache.cache_clear()


def test_without_kernels_the_reference_runs_and_warns_once(no_kernels):
    with pytest.warns(UserWarning, match='many times slower than float: .* install a C compiler'):
        assert backends.backend_for(torch.device('cpu')) is backends.reference
    assert backends.backend_for(torch.device('cpu')) is backends.reference


def test_a_wish_for_missing_kernels_is_an_error(no_kernels, monkeypatch):
    monkeypatch.setattr(backends, 'wish', 'cpu')
    with pytest.raises(ImportError, match='not built .* install a C compiler'):
        backends.backend_for(torch.device('cpu'))


def test_a_backend_or_device_that_there_is_not_is_an_error(monkeypatch):
    with pytest.raises(RuntimeError, match="on a 'meta' device .* has integer kernels for"):
        backends.backend_for(torch.device('meta'))
    monkeypatch.setattr(backends, 'wish', 'tpu')
    with pytest.raises(ValueError, match='"reference", "cpu" and "cuda" are accepted'):
        backends.backend_for(torch.device('cpu'))
