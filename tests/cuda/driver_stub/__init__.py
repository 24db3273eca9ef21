"""PyCUDA above a stand-in for NVIDIA's driver, where there is no GPU (driver.c tells of it)."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
BUILD = ROOT / 'tools' / 'build_pycuda.sh'
READY = 'imported'  # what imports print does not count
CACHE = Path(tempfile.gettempdir()) / f'mmint-driver-stub-{os.getuid()}'


def why_not() -> str | None:
    """What PyCUDA cannot be built without here."""
    if sys.platform != 'linux' or not shutil.which('nvcc'):
        return 'PyCUDA is built with the headers of the CUDA toolkit, and there is no nvcc'


@functools.cache
def built() -> Path:
    """A folder with PyCUDA, made in two minutes where it is missing, and driver/libcuda.so.1."""
    CACHE.mkdir(mode=0o700, exist_ok=True)
    if CACHE.stat().st_uid != os.getuid():
        raise PermissionError(f'{CACHE} belongs to another user: remove it')
    key = hashlib.sha256(sys.version.encode() + BUILD.read_bytes()).hexdigest()[:16]
    with (CACHE / f'{key}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        environment = {**os.environ, 'PYTHON': sys.executable, 'CFLAGS': '-O0 -w'}
        subprocess.run(['bash', str(BUILD), str(CACHE / key)], env=environment, check=True)
        (wheel,) = (CACHE / key).glob('*.whl')
        if not (CACHE / key / 'pycuda').exists():
            zipfile.ZipFile(wheel).extractall(CACHE / key)
    return CACHE / key


def environment(record: Path, folder: Path) -> dict[str, str]:
    """In which Python has this PyCUDA and this driver, which keeps its record in a file."""
    paths = [folder, ROOT, ROOT / 'tests', HERE.parent]
    return {
        **os.environ,
        'LD_LIBRARY_PATH': str(folder / 'driver'),
        'PYTHONPATH': os.pathsep.join([*map(str, paths), os.environ.get('PYTHONPATH', '')]),
        'MMINT_DRIVER_RECORD': str(record),
        'MMINT_BACKEND': 'cuda',
    }


def run(code: str, record: Path, folder: Path) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Runs Python there; what it did and printed, and the driver's record."""
    done = subprocess.run(
        [sys.executable, '-c', f'from driver_stub.seam import *\nprint({READY!r})\n{code}'],
        capture_output=True, text=True, env=environment(record, folder), check=False,
    )  # fmt: skip
    done.stdout = done.stdout.partition(f'{READY}\n')[2]
    return done, record.read_text().splitlines() if record.exists() else []
