"""Integer operations, once for each kind of device, with the same bits on all.

Every backend is a module with the functions of `mmint.backends.reference`, which defines them.
"""

from __future__ import annotations

import functools
import os
import warnings
from types import ModuleType

import torch

from . import reference
from .errors import NonFiniteError
from .geometry import Geometry, Pooling

__all__ = ['Geometry', 'NonFiniteError', 'Pooling', 'backend_for', 'reference']

VARIABLE = 'MMINT_BACKEND'


def backend_for(device: torch.device) -> ModuleType:
    """The backend of a device; the environment variable ``MMINT_BACKEND`` may name another.

    Raises:
        ValueError: if the variable names no backend, or one that does not run on this device.
        RuntimeError: if there is no backend for this device.
    """
    return _select(device.type, os.environ.get(VARIABLE))


@functools.cache
def _select(device_type: str, wish: str | None) -> ModuleType:
    if wish == 'reference':
        return reference
    if wish not in (None, 'cpu'):
        raise ValueError(
            f'{VARIABLE}={wish!r} was given, "reference" and "cpu" are accepted: '
            'set it to one of them or unset it'
        )
    if device_type != 'cpu':
        raise RuntimeError(
            f'a tensor on a {device_type!r} device was given, this version has integer kernels for '
            f'"cpu": move the model to the CPU, or set {VARIABLE}=reference (slow)'
        )
    from . import cpu

    if cpu.available():
        return cpu
    if wish == 'cpu':
        raise RuntimeError(
            f'{VARIABLE}=cpu was given, but the C kernels are not built: install a C compiler and '
            'run `pip install --force-reinstall --no-deps .` in the mmint checkout'
        )
    warnings.warn(
        'mmint runs on its reference backend, which is many times slower than float, because its C '
        'kernels are not built: install a C compiler and run '
        '`pip install --force-reinstall --no-deps .` in the mmint checkout',
        stacklevel=2,
    )
    return reference
