"""What the compiled kernels cost is what docs/kernel_costs.md says, where its compiler is there."""

import pytest
from kernel_costs import SOURCES, costs, disassembler, nvcc, release, table

VERSION, ROWS = table()
HERE = nvcc() is not None and disassembler() is not None and release(nvcc()) == VERSION


def test_every_source_is_in_the_table():
    assert {row.source for row in ROWS} == {path.name for path in SOURCES.glob('*.cu')}


@pytest.mark.skipif(not HERE, reason=f'counts are those of nvcc {VERSION} and cuobjdump')
@pytest.mark.parametrize(
    'source',
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == 'product.cu' else [])
        for name in sorted({row.source for row in ROWS})
    ],
)
def test_no_kernel_gets_dearer_unnoticed(source):
    """A change that is meant runs tools/kernel_costs.py, and shows its price in the table."""
    assert costs(SOURCES / source) == [row for row in ROWS if row.source == source]
