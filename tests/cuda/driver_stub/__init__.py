"""PyCUDA above a stand-in for NVIDIA's driver, where there is no GPU (driver.c tells of it)."""

from __future__ import annotations

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
CACHE = Path(tempfile.gettempdir()) / f'mmint-driver-stub-{os.getuid()}'


def why_not() -> str | None:
    """What PyCUDA cannot be built without here."""
    if sys.platform != 'linux' or not shutil.which('nvcc'):
        return 'PyCUDA is built with the headers of the CUDA toolkit, and there is no nvcc'


def built() -> Path:
    """A folder with PyCUDA and ``driver/libcuda.so.1``, made in two minutes where it is missing."""
    key = hashlib.sha256(sys.version.encode())
    for path in (BUILD, HERE / 'build.sh', HERE / 'driver.c'):
        key.update(path.read_bytes())
    CACHE.mkdir(mode=0o700, exist_ok=True)
    if CACHE.stat().st_uid != os.getuid():
        raise PermissionError(f'{CACHE} belongs to another user: remove it')
    target = CACHE / key.hexdigest()[:16]
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            environment = {**os.environ, 'PYTHON': sys.executable}
            subprocess.run(['bash', str(BUILD), folder], env=environment, check=True)
            (wheel,) = Path(folder).glob('*.whl')
            zipfile.ZipFile(wheel).extractall(folder)
            os.rename(folder, target)
            os.mkdir(folder)  # for the end of the context
    return target


def run(code: str, record: Path, folder: Path) -> tuple[subprocess.CompletedProcess, list[str]]:
    """Runs Python with this PyCUDA and this driver; what it did, and the driver's record."""
    paths = [folder, ROOT, ROOT / 'tests', HERE.parent]
    environment = {
        **os.environ,
        'LD_LIBRARY_PATH': str(folder / 'driver'),
        'PYTHONPATH': os.pathsep.join(map(str, paths)),
        'MMINT_DRIVER_RECORD': str(record),
        'MMINT_BACKEND': 'cuda',
    }
    done = subprocess.run(
        [sys.executable, '-c', f'from driver_stub.seam import *\n{code}'],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    return done, record.read_text().splitlines() if record.exists() else []
