"""The C update of SGD against the reference, bit for bit, and the instruction sets there are."""

import itertools
import math

import pytest
import torch
from comparison import (
    BITS,
    Comparison,
    assert_same,
    assert_same_fixed_point,
    pattern,
)

from mmint.backends import NonFiniteError, cpu, reference

check = Comparison(cpu, int)
pytestmark = pytest.mark.skipif(not cpu.available(), reason='the C kernels are not built')


def test_levels():
    assert cpu.level() in cpu.levels()
    assert cpu.levels()[-1] == 'portable'
    with pytest.raises(ValueError, match='one of'):
        cpu.use_level('sse9')
    missing = [name for name in cpu.library.LEVELS if name not in cpu.levels()]
    for name in missing:
        with pytest.raises(ValueError, match='this machine has'):
            cpu.use_level(name)


@pytest.mark.parametrize('bits', [8, 12, 16])
@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd(level, bits, nesterov):
    """Several steps, from the first on, with exponents near and far apart."""
    torch.manual_seed(bits)
    settings = [(0.01, 0.9, 1e-4), (0.1, 0.0, 0.0), (0.5, 0.99, 0.3), (0.0, 0.9, 1e-4)]
    scales = [1.0, 1e-4, 1e6, 1e-12, 0.0]
    for shape in ((), (64,), (3, 5, 7), (9_001,), (0,)):
        for (lr, momentum, decay), scale in itertools.product(settings, scales):
            start = torch.randn(shape)
            params = [start.clone(), start.clone()]
            buffers = [None, None]
            for step in range(3):
                grad = torch.randn(shape) * scale * (0 if step == 1 and lr == 0.1 else 1)
                bits_of_step = BITS._replace(iteration=step)
                buffers = [
                    backend.sgd_step(
                        param, grad, buffer, bits, lr, momentum, decay, nesterov, bits_of_step
                    )
                    for backend, param, buffer in zip(
                        (cpu, reference), params, buffers, strict=True
                    )
                ]
                assert_same_fixed_point(*buffers)
                assert_same(*params)


def test_sgd_threads(threads):
    start, grad = torch.randn(50_001), torch.randn(50_001)
    params = [start.clone(), start.clone()]
    buffers = [
        backend.sgd_step(param, grad, None, 16, 0.1, 0.9, 1e-3, False, BITS)
        for backend, param in zip((cpu, reference), params, strict=True)
    ]
    assert_same_fixed_point(*buffers)
    assert_same(*params)


def test_sgd_in_place_and_strided(level):
    start, grad = torch.randn(6, 5), torch.randn(5, 6).t()
    params = [start.t().contiguous().t(), start.clone()]
    for backend, param in zip((cpu, reference), params, strict=True):
        backend.sgd_step(param, grad, None, 16, 0.1, 0.9, 1e-3, True, BITS)
    assert params[0].stride() == (1, 6)
    assert torch.equal(params[0], params[1])


@pytest.mark.parametrize('value', [math.inf, math.nan])
def test_sgd_not_finite(level, value):
    bad, good = torch.tensor([1.0, value]), torch.tensor([1.0, 2.0])
    for param, grad in ((bad, good), (good, bad)):
        before = param.clone()
        with pytest.raises(NonFiniteError):
            cpu.sgd_step(param, grad, None, 16, 0.1, 0.9, 0.0, False, BITS)
        assert torch.equal(pattern(param), pattern(before))
