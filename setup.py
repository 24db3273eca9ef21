"""Builds the C kernels and ships configs and tools in mmint/.mim, as OpenMMLab packages do.

Without a C compiler the install goes on, with a warning.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
BACKENDS = Path('mmint/backends')
FLAGS = ['-O3', '-std=gnu11', '-fopenmp', '-fno-math-errno', '-Wall', '-Wextra', '-Wno-psabi']
LINK = ['-fopenmp']
DOCS = ['sphinx', 'myst-parser', 'furo']
if os.environ.get('MMINT_SANITIZE'):
    CHECKS = ['-fsanitize=address,undefined', '-fno-sanitize-recover=undefined', '-g', '-O1']
    FLAGS, LINK = FLAGS + CHECKS, LINK + CHECKS[:1]


def files(pattern: str) -> list[str]:
    """Those of the backends, from here."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / BACKENDS).glob(pattern))


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


class BuildPackage(build_py):
    """Adds mmint/.mim with the configs and tools, or links to them in an editable install."""

    def run(self) -> None:
        """Copies or links."""
        super().run()
        mim = (ROOT if self.editable_mode else Path(self.build_lib)) / 'mmint' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        (mim / 'model-index.yml').write_text('Import: []\n')  # mmengine asks for one
        for folder in ('configs', 'tools'):
            if self.editable_mode:
                (mim / folder).symlink_to(ROOT.resolve() / folder)
            else:
                shutil.copytree(ROOT / folder, mim / folder)


setup(
    name='mmint',
    version=re.search(r"'([\d.]+)'", (ROOT / 'mmint/version.py').read_text())[1],
    description='Training OpenMMLab models with integer arithmetic',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    classifiers=[
        'Operating System :: POSIX :: Linux',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in (10, 11, 12, 13)),
    ],
    packages=find_packages(include=['mmint', 'mmint.*']),
    package_data={
        'mmint': ['py.typed'],
        'mmint.backends': ['arithmetic/*.h'],
        'mmint.backends.cpu': ['kernels/**/*.c', 'kernels/**/*.h'],
        'mmint.backends.cuda': ['*.cu', '*.cuh'],
    },
    python_requires='>=3.10',
    install_requires=['torch>=2.5'],  # tried by tools/try_versions.sh, as are the Pythons
    extras_require={
        'mm': [
            'onedl-mmengine',
            'onedl-mmcv',
            'onedl-mmdetection',
            'onedl-mmsegmentation',
            'onedl-mmpretrain',
            'torchvision',
            'scikit-learn',
            'matplotlib',
            'ftfy',
        ],
        'cuda': ['pycuda', 'numpy'],  # PyCUDA imports NumPy without asking for it
        'docs': DOCS,
        'dev': ['clang-format==23.1.5', 'mypy', 'pytest', 'pytest-xdist', 'ruff==0.17.6', *DOCS],
        'benchmark': ['onnx', 'onnxruntime'],
    },
    ext_modules=[
        Extension(
            'mmint.backends.cpu._kernels',
            sources=files('cpu/kernels/**/*.c'),
            depends=files('cpu/kernels/**/*.h') + files('arithmetic/*.h'),
            include_dirs=[str(BACKENDS), str(BACKENDS / 'cpu/kernels')],
            extra_compile_args=FLAGS,
            extra_link_args=LINK,
            optional=True,
        )
    ],
    cmdclass={'build_ext': BuildKernels, 'build_py': BuildPackage},
)
