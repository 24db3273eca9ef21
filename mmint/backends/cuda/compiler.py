"""Compiling kernels at their first use, and keeping them: cubins for one GPU architecture.

nvcc compiles where it is on the PATH, knows the GPU and is not newer than the driver, else NVRTC,
which PyTorch's CUDA builds bring. Cubins are kept in ``$XDG_CACHE_HOME/mmint/kernels``
(``~/.cache`` unless set), a directory that only the user can write, under a name that stands for
the sources, the compiler, the architecture and the options. Each is preceded by its digest, so that
a damaged one is noticed and compiled again.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

OPTIONS = ('-std=c++17',)
REPORT = '--ptxas-options=-v'
INT128 = '--device-int128'  # nvcc has it unasked
INCLUDES = Path(__file__).parents[1]  # the arithmetic that C and CUDA share lies there
INCLUDE = re.compile(r'^#include "(.+)"', re.M)
NVRTC_OUT_OF_MEMORY = 1
Release = tuple[int, int]
_log = logging.getLogger(__name__)


class Compiled(NamedTuple):
    """A cubin, and what the compiler reported of registers and spills."""

    cubin: bytes
    report: str


class Compiler(Protocol):
    """Makes a cubin of a source file."""

    @property
    def name(self) -> str:
        """What it is and its version, in a few words."""

    def version(self) -> str:
        """Stands for the build in the cache."""

    def release(self) -> Release:
        """The CUDA version that it belongs to."""

    def refuses(self, architecture: str) -> str | None:
        """Why it does not compile for an architecture, None if it does."""

    def compile(self, source: Path, architecture: str) -> Compiled:
        """Compiles for an architecture such as ``'sm_90a'``.

        Raises:
            RuntimeError: if the compiler refuses the source or the architecture.
            MemoryError: if it runs out of memory.
        """


def cubin(source: Path, architecture: str, newest: Release | None = None) -> bytes:
    """The kernels of ``source`` for ``architecture``, from the cache or compiled.

    ``newest`` is the CUDA version of the driver. Of processes that want the same, one compiles.

    Raises:
        ImportError: if there is no compiler.
        PermissionError: if others can write the cache.
        RuntimeError, MemoryError: if the compiler fails.
    """
    compiler = find_compiler(architecture, newest)
    folder = cache_folder()
    if folder is None:
        return compiler.compile(source, architecture).cubin
    key = hashlib.sha256()
    for part in (compiler.version(), architecture, *OPTIONS):
        key.update(part.encode() + b'\0')
    for path in with_includes(source):
        key.update(path.name.encode() + b'\0' + path.read_bytes() + b'\0')
    entry = folder / f'{source.stem}-{architecture}-{key.hexdigest()[:32]}.cubin'
    with _locked(entry.with_suffix('.lock')):
        kept = _read(entry)
        if kept is None:
            kept = compiler.compile(source, architecture).cubin
            _write(entry, kept)
    return kept


def compile_all(architecture: str, newest: Release | None = None) -> None:
    """Compiles all kernels that the cache lacks, as many at a time as there are processors."""
    sources = sorted(Path(__file__).parent.glob('*.cu'))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda source: cubin(source, architecture, newest), sources))


def with_includes(source: Path) -> list[Path]:
    """A source file and all it includes, beside it or in `INCLUDES`, each once."""
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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Within this context no other process or thread is; where the disk allows it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # a full disk, say: the cache is not written then, either
        yield
        return
    try:
        with suppress(OSError):  # file systems without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


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
def find_compiler(architecture: str, newest: Release | None = None) -> Compiler:
    """nvcc, or else NVRTC; a line in the log says why one that is there is not taken.

    A driver for CUDA ``newest`` takes kernels of every release that begins with the same number,
    and of older ones.

    Raises:
        ImportError: if there is neither, or none that fits GPU and driver.
    """
    nvcc = shutil.which('nvcc')
    refused: list[str] = []
    for compiler in ([Nvcc(nvcc)] if nvcc else []) + [Nvrtc(path) for path in nvrtc_libraries()]:
        reason = compiler.refuses(architecture)
        if newest and compiler.release()[0] > newest[0]:
            reason = f'it is newer than the driver, which is for CUDA {_dotted(newest)}'
        if reason is None:
            for line in refused:
                _log.warning('%s, so %s compiles the kernels', line, compiler.name)
            return compiler
        refused.append(f'{compiler.name} cannot be used ({reason})')
    if refused:
        raise ImportError(
            f'no compiler fits this GPU and its driver ({"; ".join(refused)}): install a PyTorch '
            'built for the CUDA version that `nvidia-smi` shows, which brings NVRTC'
        )
    raise ImportError(
        'there is neither nvcc nor NVRTC, one of them compiles the CUDA kernels: put nvcc on the '
        'PATH, or install a PyTorch built for CUDA, which brings NVRTC'
    )


def _dotted(release: Release) -> str:
    return '.'.join(map(str, release))


class Nvcc:
    """The CUDA toolkit's compiler driver."""

    def __init__(self, path: str) -> None:
        self.path = path

    @functools.cached_property
    def _says(self) -> str:
        done = subprocess.run([self.path, '--version'], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    @property
    def name(self) -> str:
        """Path and version."""
        return f'{self.path} {_dotted(self.release())}'

    def version(self) -> str:
        """Its last line names the build."""
        return f'nvcc {self._says}'

    def release(self) -> Release:
        """As `Compiler.release`; 0.0 if it does not run."""
        said = re.search(r'release (\d+)\.(\d+)', self._says)
        return (int(said[1]), int(said[2])) if said else (0, 0)

    def refuses(self, architecture: str) -> str | None:
        """As `Compiler.refuses`; it needs a C++ compiler, too."""
        source = Path(__file__).with_name('mapping.cu')
        done = subprocess.run(
            [self.path, '-cubin', f'-arch={architecture}', '--dryrun', str(source)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return _complaint(done.stderr) if done.returncode else None

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
                raise failure(self.name, source, architecture, report, done.returncode in (-9, 137))
            return Compiled(made.read_bytes(), report)


class Nvrtc:
    """NVIDIA's compiler as a library."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))

    @property
    def name(self) -> str:
        """As `version`."""
        return self.version()

    def version(self) -> str:
        """As `Compiler.version`."""
        return f'NVRTC {_dotted(self.release())}'

    def release(self) -> Release:
        """As `Compiler.release`."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def refuses(self, architecture: str) -> str | None:
        """As `Compiler.refuses`: PyTorch's own fits where PyTorch itself does."""

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
    return RuntimeError(
        f'{compiler} cannot compile {source.name} for {architecture} ({_complaint(report)}): '
        'use a CUDA version that knows this GPU (without nvcc on the PATH it is the one of '
        'PyTorch), or report this as a bug of mmint'
    )


def _complaint(report: str) -> str:
    """The first error in what a compiler printed."""
    complaints = re.findall(r'^.*(?:error|fatal).*$', report, re.M) or [report]
    return complaints[0].strip()
