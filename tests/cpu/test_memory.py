"""Memory that tensors gave back is there for the next ones."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != 'glibc' or 'libasan' in os.environ.get('LD_PRELOAD', ''),
    reason="needs glibc's malloc",
)

# Page faults of the last of some equal steps, each of which frees all that it allocated.
STEPS = """
import resource, torch
from mmint.backends.cpu.memory import keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(size << 18) for size in (5, 4, 3, 2, 1, 6)]
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(5)][-1])
"""
PAGES = 21 * (1 << 20) // 4096


def faults(**variables):
    done = subprocess.run(
        [sys.executable, '-c', STEPS],
        env={**os.environ, **variables, 'CUDA_VISIBLE_DEVICES': ''},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def test_freed_memory_is_not_faulted_in_again():
    assert faults() < PAGES / 10


def test_settings_of_the_user_stay():
    assert faults(MALLOC_TRIM_THRESHOLD_='0', MALLOC_MMAP_THRESHOLD_='65536') > PAGES * 0.9
