"""The C kernels: loading them, and the instruction set they use."""

from __future__ import annotations

import functools
import os
from types import ModuleType

VARIABLE = 'MMINT_CPU_LEVEL'
LEVELS = ('avx512vnni', 'avxvnni', 'avx2', 'neon', 'portable')


def available() -> bool:
    """Whether the C kernels are built."""
    try:
        _module()
    except ImportError:
        return False
    return True


def level() -> str:
    """The name of the instruction set in use."""
    return ready().level()


def levels() -> tuple[str, ...]:
    """The names of the instruction sets that this machine has, best first."""
    return _module().levels()


def use_level(wish: str) -> None:
    """Uses this instruction set from now on.

    Raises:
        ValueError: if there is none of this name, or the machine does not have it.
    """
    if wish not in LEVELS:
        raise ValueError(f'{VARIABLE}={wish!r} was given, one of {", ".join(LEVELS)} is accepted')
    if not _module().set_level(wish):
        raise ValueError(
            f'{VARIABLE}={wish!r} was given, this machine has {", ".join(levels())}: set the '
            'variable to one of them or unset it'
        )


def _module() -> ModuleType:
    try:
        from . import _kernels  # type: ignore[attr-defined]  # made by setup.py
    except ImportError as error:
        raise ImportError(
            f'the C kernels of mmint are not built ({error}): install a C compiler and run '
            '`pip install --force-reinstall --no-deps .` in the mmint checkout'
        ) from error
    return _kernels


@functools.cache
def ready() -> ModuleType:
    """The module of kernels, with the instruction set that `VARIABLE` asks for."""
    module = _module()
    wish = os.environ.get(VARIABLE)
    if wish:
        use_level(wish)
    return module
