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
        ImportError: if the variable names a backend that is not built.
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
            f'"cpu": run with an empty CUDA_VISIBLE_DEVICES, or set {VARIABLE}=reference (slow)'
        )
    from . import cpu

    try:
        cpu.level()
    except ImportError as error:
        if wish == 'cpu':
            raise
        warnings.warn(
            f'mmint runs on its reference backend, many times slower than float: {error}',
            stacklevel=2,
        )
        return reference
    return cpu
