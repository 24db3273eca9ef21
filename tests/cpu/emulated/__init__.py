"""The C kernels with the levels of VNNI emulated, for machines that do not have it."""

import importlib.util
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import mmint

BACKENDS = Path(mmint.__file__).parent / 'backends'
KERNELS = BACKENDS / 'cpu' / 'kernels'
HERE = Path(__file__).parent
# the level's file again for each vector, with the rows of its tile
LEVELS = {'avxvnni': ('fill_emulated256', 6, 8), 'avx512vnni': ('fill_emulated512', 16, 16)}


def compiled(folder: Path) -> ModuleType:
    """The module of kernels, built in ``folder``, with the levels of `LEVELS` and portable C."""
    flags = ['-O1', '-std=gnu11', '-fopenmp', '-fPIC', '-Wall', '-Wextra', '-Wno-psabi', '-Werror']
    flags += [f'-I{path}' for path in (BACKENDS, KERNELS, sysconfig.get_path('include'))]
    sources = [path for path in KERNELS.rglob('*.c') if path.parent.name != 'levels']
    sources += [KERNELS / 'levels' / 'portable.c', HERE / 'levels.c']
    objects = []
    for name, (function, rows, lanes) in LEVELS.items():
        objects.append(folder / f'{name}.o')
        subprocess.run(
            ['gcc', *flags, f'-DNAME="{name}"', f'-DFILL={function}', f'-DVNNI_ROWS={rows}',
             f'-DVNNI_LANES={lanes}', '-c', HERE / 'level.c', '-o', objects[-1]],
            check=True,
        )  # fmt: skip
    path = folder / 'emulated.so'
    subprocess.run(['gcc', *flags, '-shared', *sources, *objects, '-o', path], check=True)
    spec = importlib.util.spec_from_file_location('_kernels', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
