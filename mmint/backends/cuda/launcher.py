"""How the host code runs kernels: one small interface.

A kernel is an ``extern "C" __global__`` function of a source file beside this one. It takes
pointers and ``int64_t``, or structs of them, so that its arguments are a row of 64-bit words:

    Tensor          pointer to its first element
    None            null pointer
    int             int64_t
    tuple of these  struct
    bytes           words that were packed before

`pycuda_launcher` runs kernels on a GPU; the tests have a second implementation, which runs the same
sources on the CPU.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..replays import capturing

SOURCES = Path(__file__).parent
Argument = Tensor | int | None | bytes | tuple['Argument', ...]
Size = tuple[int, int, int]
WORD = struct.Struct('q')


class Launcher(Protocol):
    """Compiles kernels and runs them on the device of their tensors.

    Attributes:
        device_type: the type of the devices that it serves, as PyTorch calls it.
    """

    device_type: str

    def architecture(self, device: torch.device) -> str:
        """What kernels are compiled for, as nvcc calls it: ``'sm_90a'``."""

    def kernel(self, source: str, name: str, device: torch.device) -> Any:
        """The kernel ``name`` of the file ``source``, ready to be launched on ``device``."""

    def launch(
        self,
        kernel: Any,
        grid: Size,
        block: Size,
        shared: int,
        arguments: Sequence[Argument],
        device: torch.device,
    ) -> None:
        """Starts a kernel on PyTorch's current stream; ``shared`` bytes are its dynamic memory.

        Raises:
            ValueError: if a tensor among the arguments is not on ``device``.
        """


_current: Launcher | None = None
_pycuda: Launcher | None = None


def use_launcher(launcher: Launcher | None) -> None:
    """Runs all kernels through ``launcher`` from now on; None stands for PyCUDA."""
    global _current
    _current = launcher


def launcher() -> Launcher:
    """What runs the kernels, PyCUDA unless `use_launcher` said otherwise.

    Raises:
        ImportError: if PyCUDA is not installed.
        RuntimeError: if there is no NVIDIA driver.
    """
    global _pycuda
    if _current is not None:
        return _current
    if _pycuda is None:
        from .pycuda_launcher import PyCudaLauncher

        _pycuda = PyCudaLauncher()  # one to the end: it holds PyTorch's own contexts
    return _pycuda


def refuse_capture(what: str, mend: str) -> None:
    """Does nothing, unless kernels are being captured in a CUDA graph.

    Raises:
        RuntimeError: if they are: ``what`` is wrong with that, and ``mend`` is what to do.
    """
    if capturing():
        raise RuntimeError(f'a CUDA graph is being captured {what}: {mend}')


def refuse_first_use() -> None:
    """As `refuse_capture`, for what is made when a kernel runs for the first time."""
    refuse_capture(
        'and a kernel of mmint is needed that has not run on this GPU before',
        'run the same step once before the capture, so that its kernels are loaded',
    )


def packed(arguments: Sequence[Argument], device: torch.device) -> bytes:
    """The 64-bit words that a kernel gets for its arguments.

    Raises:
        ValueError: if a tensor among them is not on ``device``.
    """
    words: list[int] = []
    _collect(arguments, device, words)
    return struct.pack(f'{len(words)}q', *words)


def _collect(arguments: Sequence[Argument], device: torch.device, words: list[int]) -> None:
    for argument in arguments:
        if type(argument) is int:
            words.append(argument)
        elif argument is None:
            words.append(0)
        elif isinstance(argument, Tensor):
            if argument.device != device:
                raise ValueError(
                    f'one operation was given tensors on {device} and on {argument.device}, on the '
                    'same device they are accepted: move them with .to(device)'
                )
            words.append(argument.data_ptr())
        elif isinstance(argument, tuple):
            _collect(argument, device, words)
        elif isinstance(argument, bytes):
            words += memoryview(argument).cast('q')
        else:
            words.append(argument)


def tensors_of(arguments: Sequence[Argument]) -> Iterator[Tensor]:
    """The tensors among a kernel's arguments."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, tuple):
            yield from tensors_of(argument)
