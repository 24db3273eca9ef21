"""Fixtures that several test modules use."""

import pytest
import torch
from simt import Emulator

from mmint import backends
from mmint.backends import cpu
from mmint.backends.cuda import finite
from mmint.backends.cuda.launcher import use_launcher
from mmint.ops.run import current_run

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random inputs, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(params=['reference', 'cpu'] if cpu.available() else ['reference'])
def backend(request, monkeypatch):
    """The backend of every operation of a test: the reference, and the C kernels where built."""
    monkeypatch.setattr(backends, 'wish', request.param)
    backends._select.cache_clear()
    yield backends.backend_for(CPU)
    backends._select.cache_clear()


@pytest.fixture
def fresh_run():
    """Seed, rank, iteration, calls and captures as at the start of a process, around a test."""

    def reset():
        current_run.seed = current_run.rank = 0
        current_run.captured.clear()
        current_run.begin_iteration(0)

    reset()
    yield
    reset()


@pytest.fixture(params=cpu.levels() if cpu.available() else [])
def level(request):
    """Every instruction set that this machine has."""
    before = cpu.level()
    cpu.use_level(request.param)
    yield request.param
    cpu.use_level(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    """So many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def emulated():
    """CUDA kernels are emulated, and memory is filled before they write it."""
    use_launcher(Emulator())
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)
    use_launcher(None)
    finite.forget(CPU)
