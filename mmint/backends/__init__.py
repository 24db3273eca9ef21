"""Integer operations, once for each kind of device, with the same bits on all.

`contract` says what they are; `reference` defines their bits.
"""

from __future__ import annotations

import functools
import os
import warnings

import torch

from ..numerics import NonFiniteError
from . import reference
from .contract import Backend
from .geometry import Geometry, Places, Pooling, RoISampling, Windows
from .mapping import Mapping
from .running import Running
from .update import Update
from .watching import seen, watched

__all__ = [
    'Backend',
    'Geometry',
    'Mapping',
    'NonFiniteError',
    'Places',
    'Pooling',
    'RoISampling',
    'Running',
    'Update',
    'Windows',
    'backend_for',
    'reference',
    'watched',
]

VARIABLE = 'MMINT_BACKEND'
# Read once: asking the environment at every operation takes a tenth of a small step's host time.
wish = os.environ.get(VARIABLE)


def backend_for(device: torch.device) -> Backend:
    """The backend of a device; ``MMINT_BACKEND``, when mmint is imported, may name another.

    Under `watched`, its operations go through those who watch.

    Raises:
        ValueError: if the variable names no backend, or one that does not run on this device.
        RuntimeError: if there is no backend for this device, or the NVIDIA driver does not work.
        ImportError: if the variable names a backend that is not built, or PyCUDA is missing.
    """
    return seen(_select(device.type, wish))


@functools.cache
def _select(device_type: str, wish: str | None) -> Backend:
    if wish == 'reference':
        return reference
    if wish not in (None, 'cpu', 'cuda'):
        raise ValueError(
            f'{VARIABLE}={wish!r} was given, "reference", "cpu" and "cuda" are accepted: '
            'set it to one of them or unset it'
        )
    if device_type not in ('cpu', 'cuda'):
        raise RuntimeError(
            f'a tensor on a {device_type!r} device was given, this version has integer kernels for '
            f'"cpu" and "cuda": move the model with .to(), or set {VARIABLE}=reference (slow)'
        )
    name = wish or device_type
    served = _cuda_device_type() if name == 'cuda' else 'cpu'
    if served != device_type:
        raise RuntimeError(
            f'{VARIABLE}={wish!r} was given and a tensor on a {device_type!r} device, tensors on '
            f'{served!r} are accepted: move the model with .to({served!r}), or unset {VARIABLE}'
        )
    if name == 'cuda':
        from . import cuda

        return cuda
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


def _cuda_device_type() -> str:
    """The type of the devices that the cuda backend's kernels run on."""
    from .cuda.launcher import launcher

    return launcher().device_type
