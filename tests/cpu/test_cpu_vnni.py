"""The products of test_cpu_products.py with VNNI's tiles, on machines that need not have VNNI.

The same tile and packing as on the levels `avxvnni` and `avx512vnni`, compiled for AVX2 with the
instruction written in C.
"""

import platform

import pytest
from emulated import LEVELS, compiled
from test_cpu_products import (  # noqa: F401
    test_batched_matmul,
    test_convolution,
    test_convolution_of_layers,
    test_convolution_of_zeros,
    test_dense_weights_with_an_exponent_a_channel,
    test_empty_convolution,
    test_long_batched_sums,
    test_long_sums,
    test_matmul,
    test_strided_mantissas,
)

from mmint.backends import cpu
from mmint.backends.cpu import library

pytestmark = [
    pytest.mark.slow,  # it compiles the kernels again
    pytest.mark.skipif(not cpu.available(), reason='the C kernels are not built'),
    pytest.mark.skipif(
        not {'avx2', 'avxvnni', 'avx512vnni'} & set(cpu.levels() if cpu.available() else ()),
        reason=f'the packing is for AVX2, which this {platform.machine()} does not have',
    ),
]


@pytest.fixture(scope='module')
def kernels(tmp_path_factory):
    """Compiled once."""
    return compiled(tmp_path_factory.mktemp('emulated'))


@pytest.fixture(params=LEVELS)
def level(request, kernels, monkeypatch):
    """Every level with VNNI, emulated."""
    monkeypatch.setattr(library, '_module', lambda: kernels)
    library.ready.cache_clear()
    cpu.use_level(request.param)
    yield request.param
    library.ready.cache_clear()


def test_tiles_are_those_of_the_level(level, kernels):
    assert kernels.level() == cpu.level() == level
