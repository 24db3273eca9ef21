"""The launcher that runs kernels on the CPU: compiled by g++, called by ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mmint.backends.cuda.compiler import INCLUDES, with_includes
from mmint.backends.cuda.launcher import SOURCES, WORD, Argument, packed, tensors_of

HERE = Path(__file__).parent
CACHE = Path(tempfile.gettempdir()) / f'mmint-simt-{os.getuid()}'
FLAGS = [
    '-std=c++17', '-O2', '-g1', '-gdwarf-4', '-fPIC', '-fno-gnu-unique', '-fno-strict-aliasing',
    '-Wall', '-Wextra',
]  # fmt: skip
CHECKED = [
    '-fsanitize=thread,bounds', '--param=tsan-instrument-func-entry-exit=0', '-fno-tree-sra',
    '-fno-tree-vectorize', '-Wno-unknown-pragmas', '-Wno-unused-function', '-Wno-unused-parameter',
]  # fmt: skip
ONE_AT_A_TIME = threading.Lock()
VARIABLE = re.compile(r'^(\w+) (\w+) [bBdDuV] (.*?(\w+))$', re.M)
ENTRY = re.compile(
    r'extern "C"[^;{]*?__global__[^;{]*?void\s+(?:__\w+__\s*\([^)]*\)\s*)*(\w+)\s*\('
)


class SimtError(RuntimeError):
    """A kernel did what a GPU does not allow, or does not tell."""


class Kernel(NamedTuple):
    """A compiled kernel."""

    source: str
    name: str
    library: ctypes.CDLL


class Emulator:
    """The launcher interface of `mmint.backends.cuda.launcher` for tensors on the CPU.

    Args:
        sources: the folder of the kernel sources.
        architecture: what host code is told.
    """

    device_type = 'cpu'

    def __init__(self, sources: Path = SOURCES, architecture: str = 'emulated') -> None:
        self.sources, self._architecture = sources, architecture
        self.kernel = functools.cache(self._kernel)

    def architecture(self, device: torch.device) -> str:
        return self._architecture

    def _kernel(self, source: str, name: str, device: torch.device) -> Kernel:
        library = _library(self.sources / source)
        if not hasattr(library, f'simt_entry_{name}'):
            raise AttributeError(f'{source} has no kernel {name}')
        return Kernel(source, name, library)

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        arguments: Sequence[Argument],
        device: torch.device,
    ) -> None:
        words = [word for (word,) in WORD.iter_unpack(packed(arguments, torch.device(device)))]
        buffers = _merged([_extent(t) for t in tensors_of(arguments) if t.numel()])
        where = ctypes.c_void_p()
        entry = getattr(kernel.library, f'simt_entry_{kernel.name}')
        with ONE_AT_A_TIME:
            message = kernel.library.simt_launch(
                ctypes.cast(entry, ctypes.c_void_p), _integers(words), len(words),
                _integers(grid), _integers(block), ctypes.c_longlong(shared),
                _integers([n for pair in buffers for n in pair]), len(buffers),
                ctypes.byref(where),
            )  # fmt: skip
        if message:
            raise SimtError(f'{kernel.name}: {message.decode()}{_place(kernel, where.value)}')


def _integers(values: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_longlong * len(values))(*values)


def _extent(x: Tensor) -> tuple[int, int]:
    """The first byte of a tensor, and the number of bytes up to its last element's end."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), (last + 1) * x.element_size()


def _merged(extents: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Extents that overlap become one, so that every byte belongs to one buffer."""
    merged: list[tuple[int, int]] = []
    for start, size in sorted(extents):
        if merged and start < sum(merged[-1]):
            first, length = merged[-1]
            merged[-1] = first, max(length, start + size - first)
        else:
            merged.append((start, size))
    return merged


def _place(kernel: Kernel, address: int | None) -> str:
    """The source lines of an address in the library, innermost first."""
    if not address:
        return ''
    offset = address - kernel.library.simt_base() - 1
    found = subprocess.run(
        ['addr2line', '-i', '-s', '-e', kernel.library._name, hex(offset)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [
        line.split(' ')[0]
        for line in found.stdout.splitlines()
        if line and not line.startswith(('simt', '?'))
    ]
    return f' ({" in ".join(lines)})' if lines else ''


def _library(source: Path) -> ctypes.CDLL:
    """Compiles a kernel source, or takes what is compiled already."""
    own = [HERE / 'simt.h', HERE / 'simt.cpp']
    runtime = _made(f'#include "{own[1]}"\n', [*FLAGS, '-O3', '-c'], '.o', own)
    names = ENTRY.findall(source.read_text())
    text = f'#include "{own[0]}"\n#include "{source}"\n'
    text += ''.join(f'SIMT_ENTRY({name})\n' for name in names)
    inputs = [*own, *with_includes(source)]
    unit = _made(text, [*FLAGS, *CHECKED, f'-I{INCLUDES}', '-c'], '.o', inputs)
    return _loaded(
        _made('', ['-shared', '-Wl,-Bsymbolic', str(unit), str(runtime)], '.so', []), unit
    )


@functools.cache
def _loaded(path: Path, unit: Path) -> ctypes.CDLL:
    """A library, told of the arrays in shared memory, which are all the variables of ``unit``."""
    library = ctypes.CDLL(str(path))
    library.simt_launch.restype = ctypes.c_char_p
    library.simt_base.restype = ctypes.c_void_p
    in_unit = {symbol for _, _, symbol, _ in _variables(unit)}
    for offset, size, symbol, name in _variables(path):
        if symbol in in_unit and not name.startswith('simt_gap_'):
            library.simt_shared_array(
                ctypes.c_longlong(int(offset, 16)), ctypes.c_longlong(int(size, 16)), name.encode()
            )
    return library


def _variables(binary: Path) -> list[tuple[str, str, str, str]]:
    """Offset, size, full and short name of the variables in an object file or library."""
    command = ['nm', '-S', '-C', str(binary)]
    return VARIABLE.findall(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )


def _made(text: str, flags: list[str], suffix: str, inputs: list[Path]) -> Path:
    """What g++ makes of a text that includes ``inputs``, kept for the next time."""
    key = hashlib.sha256(repr((text, flags)).encode())
    for path in sorted(inputs):
        key.update(path.read_bytes())
    CACHE.mkdir(mode=0o700, exist_ok=True)
    if CACHE.stat().st_uid != os.getuid():
        raise PermissionError(f'{CACHE} belongs to another user: remove it')
    target = CACHE / (key.hexdigest()[:32] + suffix)
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            unit, made = Path(folder) / 'unit.cpp', Path(folder) / 'made'
            unit.write_text(text)
            done = subprocess.run(
                ['g++', *([str(unit)] if text else []), *flags, '-o', str(made)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f'g++ cannot compile the kernels:\n{done.stderr}')
            made.replace(target)
    return target
