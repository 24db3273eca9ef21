"""The machine of a measurement, in words."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch

from mmint.backends import cpu

CPUINFO = Path('/proc/cpuinfo')  # of Linux


def machine() -> str:
    """Processor, cores that this process may use, instruction set of the kernels, PyTorch."""
    found = re.search(r'model name\s*: (.*)', CPUINFO.read_text() if CPUINFO.exists() else '')
    name = found[1] if found else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{name}, {cores} cores, {cpu.level()}, PyTorch {torch.__version__}'
