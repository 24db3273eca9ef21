"""The C update of SGD against the reference, bit for bit, and the instruction sets there are."""

import itertools
import math
from functools import partial

import pytest
import torch
from comparison import (
    BITS,
    Comparison,
    assert_same,
    assert_same_fixed_point,
    pattern,
)

from mmint.backends import NonFiniteError, Update, cpu, reference

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
    """Several steps, from the first on, with exponents near and far apart, all in one call."""
    torch.manual_seed(bits)
    settings = [(0.01, 0.9, 1e-4), (0.1, 0.0, 0.0), (0.5, 0.99, 0.3), (0.0, 0.9, 1e-4)]
    scales = [1.0, 1e-4, 1e6, 1e-12, 0.0]
    shapes = ((), (64,), (3, 5, 7), (9_001,), (0,))
    cases = list(itertools.product(shapes, settings, scales))
    starts = [torch.randn(shape) for shape, _, _ in cases]
    params = [[start.clone() for start in starts] for _ in range(2)]
    momenta = [[None] * len(cases)] * 2
    for step in range(3):
        grads = [
            torch.randn(shape) * scale * (0 if step == 1 and lr == 0.1 else 1)
            for shape, (lr, _, _), scale in cases
        ]
        for side, backend in enumerate((cpu, reference)):
            momenta[side] = backend.sgd_step([
                Update(param, grad, momentum, bits, *setting, nesterov,
                       BITS._replace(iteration=step, layer=i))
                for i, (param, grad, momentum, (_, setting, _)) in enumerate(
                    zip(params[side], grads, momenta[side], cases, strict=True)
                )
            ])  # fmt: skip
        for param, other, momentum, expected in zip(*params, *momenta, strict=True):
            assert_same(param, other)
            assert momentum is expected is None or not assert_same_fixed_point(momentum, expected)


@pytest.mark.parametrize('exponent', [-140, -112, -60, 90, 120])
def test_sgd_of_all_magnitudes(level, exponent):
    """Beyond those of which vectors have powers of two; gradients that reach below them all."""
    torch.manual_seed(exponent)
    start, grad = torch.randn(2, 300, dtype=torch.float64) * 2.0**exponent
    grad *= 2.0 ** -torch.arange(300).double().remainder(60)
    results = []
    for backend in (cpu, reference):
        param, momentum = start.float(), None
        for step in range(3):
            random = BITS._replace(iteration=step)
            update = Update(param, grad.float(), momentum, 16, 0.1, 0.9, 0.01, True, random)
            (momentum,) = backend.sgd_step([update])
        results.append((param, momentum))
    (param, momentum), (other, expected) = results
    assert_same(param, other)
    assert_same_fixed_point(momentum, expected)


def test_sgd_threads(threads):
    start, grad = torch.randn(50_001), torch.randn(50_001)
    params = [start.clone(), start.clone()]
    buffers = [
        backend.sgd_step([Update(param, grad, None, 16, 0.1, 0.9, 1e-3, False, BITS)])[0]
        for backend, param in zip((cpu, reference), params, strict=True)
    ]
    assert_same_fixed_point(*buffers)
    assert_same(*params)


def test_sgd_in_place_and_strided(level):
    start, grad = torch.randn(6, 5), torch.randn(5, 6).t()
    params = [start.t().contiguous().t(), start.clone()]
    for backend, param in zip((cpu, reference), params, strict=True):
        backend.sgd_step([Update(param, grad, None, 16, 0.1, 0.9, 1e-3, True, BITS)])
    assert params[0].stride() == (1, 6)
    assert torch.equal(params[0], params[1])


@pytest.mark.parametrize('value', [math.inf, math.nan])
def test_sgd_not_finite(level, value):
    bad, good = torch.tensor([1.0, value]), torch.tensor([1.0, 2.0])
    for param, grad in ((bad, good), (good, bad)):
        params, names = [good.clone(), param.clone()], ('the first', 'the second')
        with pytest.raises(NonFiniteError, match='^the second$'):
            cpu.sgd_step([
                Update(p, g, None, 16, 0.1, 0.9, 0.0, False, BITS, partial(NonFiniteError, name))
                for p, g, name in zip(params, (good, grad), names, strict=True)
            ])  # fmt: skip
        assert torch.equal(params[0], good)
        assert torch.equal(pattern(params[1]), pattern(param))
