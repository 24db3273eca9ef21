"""Builds the C kernels; without a C compiler the install goes on, with a warning."""

import os
import re
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
KERNELS = Path('mmint/backends/cpu')
FLAGS = ['-O3', '-std=gnu11', '-fopenmp', '-fno-math-errno', '-Wall', '-Wextra']
LINK = ['-fopenmp']
if os.environ.get('MMINT_SANITIZE'):
    CHECKS = ['-fsanitize=address,undefined', '-fno-sanitize-recover=undefined', '-g', '-O1']
    FLAGS, LINK = FLAGS + CHECKS, LINK + CHECKS[:1]


class BuildKernels(build_ext):
    """Goes on where a compiler is missing."""

    def build_extension(self, extension: Extension) -> None:
        """Compiles, or warns."""
        try:
            super().build_extension(extension)
        except Exception as error:  # whatever a missing or strange compiler raises
            if os.environ.get('MMINT_REQUIRE_KERNELS'):
                raise
            print(
                f'WARNING: the C kernels of mmint were not built ({error}), so that it will run on '
                'its reference backend, many times slower than float: install a C compiler (gcc '
                'or clang with OpenMP) and install mmint again.',
                file=sys.stderr,
            )


setup(
    name='mmint',
    version=re.search(r"'([\d.]+)'", (ROOT / 'mmint/version.py').read_text())[1],
    packages=find_packages(include=['mmint', 'mmint.*']),
    package_data={'mmint.backends.cpu': ['*.c', '*.h']},
    python_requires='>=3.10',
    install_requires=['torch>=2.1'],
    extras_require={
        'mm': ['mmengine', 'mmcv-lite', 'mmdet', 'mmsegmentation', 'mmpretrain'],
        'cuda': ['pycuda'],
        'dev': ['pytest', 'ruff', 'numpy', 'onnxruntime'],
    },
    ext_modules=[
        Extension(
            'mmint.backends.cpu._kernels',
            sources=sorted(str(p.relative_to(ROOT)) for p in (ROOT / KERNELS).glob('*.c')),
            depends=sorted(str(p.relative_to(ROOT)) for p in (ROOT / KERNELS).glob('*.h')),
            extra_compile_args=FLAGS,
            extra_link_args=LINK,
        )
    ],
    cmdclass={'build_ext': BuildKernels},
)
