"""What the tests of the OpenMMLab wing share."""

from importlib.util import find_spec

import pytest
import torch

collect_ignore_glob = [] if find_spec('mmengine') else ['test_*.py']


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own():
    """The generators and the threads are left as they were."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.fixture(autouse=True)
def configs_are_written_as_they_come(monkeypatch):
    """A runner formats its config with yapf four times, slower than a miniature run."""
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **style: (text, False))
