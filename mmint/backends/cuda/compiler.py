"""Compiling kernels at their first use, and keeping them: cubins for one GPU architecture.

nvcc compiles where it is on the PATH, else NVRTC, which PyTorch's CUDA builds bring. Cubins are
kept in ``$XDG_CACHE_HOME/mmint/kernels`` (``~/.cache`` unless set), a directory that only the user
can write, under a name that stands for the sources, the compiler, the architecture and the options.
Each is preceded by its digest, so that a damaged one is noticed and compiled again.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

OPTIONS = ('-std=c++17',)
REPORT = '--ptxas-options=-v'
INT128 = '--device-int128'  # nvcc has it unasked
INCLUDES = Path(__file__).parents[1]  # the arithmetic that C and CUDA share lies there
INCLUDE = re.compile(r'^#include "(.+)"', re.M)
NVRTC_OUT_OF_MEMORY = 1


class Compiled(NamedTuple):
    """A cubin, and what the compiler reported of registers and spills."""

    cubin: bytes
    report: str


class Compiler(Protocol):
    """Makes a cubin of a source file."""

    def version(self) -> str:
        """Name and version."""

    def compile(self, source: Path, architecture: str) -> Compiled:
        """Compiles for an architecture such as ``'sm_90a'``.

        Raises:
            RuntimeError: if the compiler refuses the source or the architecture.
            MemoryError: if it runs out of memory.
        """


def cubin(source: Path, architecture: str) -> bytes:
    """The kernels of ``source`` for ``architecture``, from the cache or compiled.

    Raises:
        ImportError: if there is no compiler.
        PermissionError: if others can write the cache.
        RuntimeError, MemoryError: if the compiler fails.
    """
    compiler = find_compiler()
    folder = cache_folder()
    if folder is None:
        return compiler.compile(source, architecture).cubin
    key = hashlib.sha256()
    for part in (compiler.version(), architecture, *OPTIONS):
        key.update(part.encode() + b'\0')
    for path in with_includes(source):
        key.update(path.name.encode() + b'\0' + path.read_bytes() + b'\0')
    entry = folder / f'{source.stem}-{architecture}-{key.hexdigest()[:32]}.cubin'
    kept = _read(entry)
    if kept is None:
        kept = compiler.compile(source, architecture).cubin
        _write(entry, kept)
    return kept


def with_includes(source: Path) -> list[Path]:
    """A source file and those it includes, beside it or in `INCLUDES`, directly or not, each once."""
    found = [source]
    for path in found:
        for name in INCLUDE.findall(path.read_text()):
            beside = source.parent / name
            included = beside if beside.exists() else INCLUDES / name
            if included not in found:
                found.append(included)
    return found


# ---- the cache ----


def cache_folder() -> Path | None:
    """The cache, made if missing; None, with a warning, where none can be made.

    Raises:
        PermissionError: if it belongs to another user, or others can write it.
    """
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    folder = Path(base) / 'mmint' / 'kernels'
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        warnings.warn(
            f'kernels are compiled anew in every process, since {folder} cannot be made '
            f'({error.strerror}): set XDG_CACHE_HOME to a directory of your own',
            stacklevel=2,
        )
        return None
    status = folder.lstat()
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or others:
        raise PermissionError(
            f'the kernel cache {folder} can be written by others, a directory that only you can '
            'write is accepted: remove it, or set XDG_CACHE_HOME to a directory of your own'
        )
    return folder


def _read(entry: Path) -> bytes | None:
    try:
        content = entry.read_bytes()
    except OSError:
        return None
    digest, kept = content[:32], content[32:]
    return kept if hashlib.sha256(kept).digest() == digest else None


def _write(entry: Path, kept: bytes) -> None:
    """Writes an entry such that others see all of it or nothing."""
    try:
        with tempfile.NamedTemporaryFile(dir=entry.parent, delete=False) as file:
            file.write(hashlib.sha256(kept).digest() + kept)
        os.replace(file.name, entry)
    except OSError as error:
        warnings.warn(
            f'a kernel was not kept for the next process, since {entry.parent} cannot be written '
            f'({error.strerror}): free space there, or set XDG_CACHE_HOME',
            stacklevel=3,
        )


# ---- compilers ----


@functools.cache
def find_compiler() -> Compiler:
    """nvcc, or else NVRTC.

    Raises:
        ImportError: if there is neither.
    """
    nvcc = shutil.which('nvcc')
    if nvcc:
        return Nvcc(nvcc)
    for path in nvrtc_libraries():
        return Nvrtc(path)
    raise ImportError(
        'there is neither nvcc nor NVRTC, one of them compiles the CUDA kernels: put nvcc on the '
        'PATH, or install a PyTorch built for CUDA, which brings NVRTC'
    )


class Nvcc:
    """The CUDA toolkit's compiler driver."""

    def __init__(self, path: str) -> None:
        self.path = path

    @functools.cache  # noqa: B019  (there is one)
    def version(self) -> str:
        """Its last line names the build."""
        done = subprocess.run([self.path, '--version'], capture_output=True, text=True, check=False)
        return f'nvcc {done.stdout.strip()}'

    def compile(self, source: Path, architecture: str) -> Compiled:
        """As `Compiler.compile`."""
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / 'made.cubin'
            options = [f'-arch={architecture}', f'-I{INCLUDES}', REPORT, *OPTIONS]
            done = subprocess.run(
                [self.path, '-cubin', *options, str(source), '-o', str(made)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            report = done.stdout + done.stderr
            if done.returncode:
                raise failure('nvcc', source, architecture, report, done.returncode in (-9, 137))
            return Compiled(made.read_bytes(), report)


class Nvrtc:
    """NVIDIA's compiler as a library."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    def version(self) -> str:
        """Major and minor number."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f'NVRTC {major.value}.{minor.value}'

    def compile(self, source: Path, architecture: str) -> Compiled:
        """As `Compiler.compile`."""
        options = [
            f'-arch={architecture}', f'-I{source.parent}', f'-I{INCLUDES}', INT128, REPORT, *OPTIONS
        ]  # fmt: skip
        program = ctypes.c_void_p()
        self.library.nvrtcCreateProgram(
            ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None
        )
        try:
            status = self.library.nvrtcCompileProgram(
                program, len(options),
                (ctypes.c_char_p * len(options))(*[option.encode() for option in options]),
            )  # fmt: skip
            report = self._get(program, 'ProgramLog').decode(errors='replace')
            if status:
                out_of_memory = status == NVRTC_OUT_OF_MEMORY
                raise failure(self.version(), source, architecture, report, out_of_memory)
            return Compiled(self._get(program, 'CUBIN'), report)
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))

    def _get(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self.library, f'nvrtcGet{what}Size')(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(self.library, f'nvrtcGet{what}')(program, text)
        return text.raw if what == 'CUBIN' else text.value


def nvrtc_libraries() -> list[Path]:
    """The NVRTC libraries of PyTorch and of NVIDIA's packages, PyTorch's own version first."""
    folders = [Path(torch.__file__).parent / 'lib']
    for place in sys.path:
        folders += sorted(Path(place).glob('nvidia/*/lib'), reverse=True)
    found = [path for folder in folders for path in sorted(folder.glob('libnvrtc*.so*'))]
    names = re.compile(r'libnvrtc(-[0-9a-f]+)?\.so\.\d+(\.\d+)*$')
    wanted = (torch.version.cuda or '').split('.')[0]
    return sorted(
        (path for path in found if names.match(path.name)),
        key=lambda path: path.name.split('.so.')[1].split('.')[0] != wanted,
    )


def failure(
    compiler: str, source: Path, architecture: str, report: str, out_of_memory: bool
) -> Exception:
    """The error for a compiler that failed."""
    out_of_memory = out_of_memory or bool(re.search('out of memory|bad_alloc', report))
    if out_of_memory:
        return MemoryError(
            f'{compiler} ran out of memory when it compiled {source.name} for {architecture}: free '
            'memory, or run with fewer processes until the kernels are in the cache'
        )
    complaints = re.findall(r'^.*(?:error|fatal).*$', report, re.M) or [report.strip()]
    return RuntimeError(
        f'{compiler} cannot compile {source.name} for {architecture} ({complaints[0].strip()}): '
        'use a CUDA version that knows this GPU (without nvcc on the PATH it is the one of '
        'PyTorch), or report this as a bug of mmint'
    )
