"""The CUDA kernels of mappings, exact layers and the update against the reference, bit for bit.

They run in the emulator, through the host code that a GPU would see.
"""

import itertools
import math
import random as rng

import pytest
import torch
from comparison import (
    BITS,
    BLOCKS,
    any_float32,
    mantissas,
    several_exponents,
    several_mappings,
)

from mmint.backends import NonFiniteError, Pooling, Update, cuda, reference
from mmint.backends.cuda import finite
from mmint.backends.errors import naming
from mmint.backends.magnitudes import known_magnitude, remember_magnitude

CPU = torch.device('cpu')
pytestmark = pytest.mark.usefixtures('emulated')


def same(actual, expected):
    """Equal to the bit, so that 0 and -0 differ."""
    assert actual.dtype == expected.dtype == torch.float32
    assert actual.shape == expected.shape
    actual, expected = actual.contiguous(), expected.contiguous()
    return torch.equal(actual.view(torch.int32), expected.view(torch.int32))


def same_fixed_point(actual, expected):
    assert actual.mantissa.dtype == expected.mantissa.dtype
    assert actual.exponent.dtype == torch.int32
    assert actual.bits == expected.bits
    return torch.equal(actual.mantissa, expected.mantissa) and torch.equal(
        actual.exponent, expected.exponent
    )


# ---- mapping ----

SHAPES = [(), (0,), (1,), (5,), (63,), (64,), (65,), (1000,), (20_000,), (3, 7, 5), (3, 0, 2, 2),
          (2, 1, 5, 5), (1, 7, 1, 1), (3, 70, 3, 3), (2, 3, 33, 21), (2, 33, 16, 9),
          (1, 31, 1, 129), (1, 3, 47, 50)]  # fmt: skip


@pytest.mark.parametrize('bits', [4, 8, 9, 16])
@pytest.mark.parametrize('random', [None, BITS])
def test_quantize(bits, random):
    for shape in SHAPES:
        for x in (torch.randn(shape), torch.randn(shape) * 1e-41, any_float32(shape)):
            actual = cuda.quantize(x, bits, random)
            assert same_fixed_point(actual, reference.quantize(x, bits, random)), shape


@pytest.mark.parametrize('bits', range(4, 17))
def test_quantize_every_width(bits):
    """Exponents that span what the mantissas see and what they do not, ties, and full mantissas."""
    p = bits - 1
    x = torch.randn(3000) * torch.exp2(torch.randint(-40, 3, (3000,)))
    halves = torch.arange(-(2 ** (p + 1)) + 2, 2 ** (p + 1) - 1)[:: 2 ** max(0, p - 9)] / 2
    for values in (x, halves, x[:1], -x[:70].abs()):
        for random in (None, BITS):
            actual = cuda.quantize(values, bits, random)
            assert same_fixed_point(actual, reference.quantize(values, bits, random))


def test_quantize_zeros_and_borders():
    for top in (0.0, 127 / 64, 127.5 / 64, 1.9999999, 2.0, 2.0**-126, 2.0**-149, 3.4028235e38):
        x = torch.tensor([top, -top, top / 2, top / 3, top / 512, -top / 300, 0.0, -0.0])
        for bits, random in itertools.product((4, 8, 11, 16), (None, BITS)):
            actual = cuda.quantize(x, bits, random)
            assert same_fixed_point(actual, reference.quantize(x, bits, random))


@pytest.mark.parametrize('bits', [4, 8, 16])
@pytest.mark.parametrize('random', [None, BITS])
def test_exponents_of_blocks(bits, random):
    for shape, exponents in BLOCKS:
        for x in (several_exponents(shape), any_float32(shape)):
            actual = cuda.quantize(x, bits, random, exponents=exponents)
            expected = reference.quantize(x, bits, random, exponents=exponents)
            assert same_fixed_point(actual, expected), (shape, exponents)


def test_exponents_of_blocks_at_given_maxima():
    x, exponents = several_exponents((2, 6, 9, 8)), (1, 6, 1, 1)
    tops = (3 * x).abs().amax((0, 2, 3)).view(torch.int32)
    expected = reference.quantize(x, 8, BITS, tops, exponents)
    assert same_fixed_point(cuda.quantize(x, 8, BITS, tops, exponents), expected)


@pytest.mark.parametrize('value', [math.inf, math.nan])
def test_a_block_that_is_not_finite_becomes_zeros_and_is_reported_later(value):
    x, exponents = torch.randn(2, 6, 5, 7), (1, 6, 1, 1)
    x[1, 3, 2, 2] = value
    fixed = cuda.quantize(x, 8, BITS, exponents=exponents)
    x[:, 3] = 0
    assert same_fixed_point(fixed, reference.quantize(x, 8, BITS, exponents=exponents))
    with pytest.raises(NonFiniteError):
        cuda.check(CPU)


def test_quantize_any_memory_layout():
    x = torch.randn(2, 6, 10, 9)
    views = [
        x.to(memory_format=torch.channels_last), x.transpose(1, 3), x[:, ::2], x[..., 1:-1],
        x[0].expand(3, 6, 10, 9), x.flatten()[::3], x.flatten()[1:], x.permute(3, 2, 1, 0),
    ]  # fmt: skip
    for view in views:
        actual = cuda.quantize(view, 8, BITS)
        assert same_fixed_point(actual, reference.quantize(view, 8, BITS))


def test_mantissas_of_images_are_channels_last():
    for bits in (8, 16):
        mantissa = cuda.quantize(torch.randn(2, 6, 10, 9), bits, BITS).mantissa
        assert mantissa.is_contiguous(memory_format=torch.channels_last)


def test_quantize_at_a_given_maximum():
    x = torch.randn(100)
    top = int(x.abs().max().view(torch.int32)) + (3 << 23)
    expected = reference.quantize(x, 8, BITS, top)
    assert same_fixed_point(cuda.quantize(x, 8, BITS, top), expected)
    assert same_fixed_point(cuda.quantize(x, 8, BITS, torch.tensor(top)), expected)
    remember_magnitude(x, torch.tensor(top, dtype=torch.int32))
    assert same_fixed_point(cuda.quantize(x, 8, BITS), expected)


@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize('shape', [(1,), (700,), (2, 5, 6, 7)])
def test_not_finite_values_become_zeros_and_are_reported_later(value, shape):
    """The first of several calls is the one that `check` names, once."""
    good, bad = torch.randn(shape), torch.randn(shape)
    bad.view(-1)[-1] = value
    for number, x in enumerate((good, bad, good, bad)):
        with naming(lambda number=number: NonFiniteError(f'tensor {number}')):
            fixed = cuda.quantize(x, 8, BITS)
        if x is bad:
            assert not fixed.mantissa.any() and fixed.exponent == 0
        else:
            assert same_fixed_point(fixed, reference.quantize(x, 8, BITS))
    with pytest.raises(NonFiniteError, match='tensor 1'):
        cuda.check(CPU)
    cuda.check(CPU)
    cuda.quantize(good, 8, BITS)
    cuda.check(CPU)
    cuda.quantize(bad, 8, BITS)
    with pytest.raises(NonFiniteError, match='infinite or NaN values was mapped'):
        cuda.check(CPU)


@pytest.mark.parametrize('bad', range(7))
def test_numbers_go_on_where_nobody_checks(bad, monkeypatch):
    """The latest calls keep their names; an earlier one that failed is reported without."""
    monkeypatch.setattr(finite, 'MAX_CALLS', 3)
    for number in range(7):
        x = torch.randn(9)
        x[3] = math.nan if number == bad else 0
        with naming(lambda number=number: NonFiniteError(f'tensor {number}')):
            cuda.quantize(x, 8, BITS)
    with pytest.raises(NonFiniteError, match=f'tensor {bad}' if bad > 3 else 'a tensor with inf'):
        cuda.check(CPU)
    cuda.check(CPU)


def test_several_tensors_are_mapped_at_once():
    mappings = list(several_mappings())
    for m, actual in zip(mappings, cuda.quantize_all(mappings), strict=True):
        assert same_fixed_point(
            actual, reference.quantize(m.x, m.bits, m.random, None, m.exponents)
        )
        mantissa = actual.mantissa
        if m.turned:
            assert mantissa.movedim(0, -1).is_contiguous()
        elif mantissa.dim() == 4:
            assert mantissa.is_contiguous(memory_format=torch.channels_last)
    cuda.check(CPU)


def test_of_several_tensors_the_one_that_is_not_finite_is_named():
    mappings = list(several_mappings())
    mappings[31].x[0] = math.inf
    cuda.quantize_all(mappings)
    with pytest.raises(NonFiniteError, match='tensor 31'):
        cuda.check(CPU)


@pytest.mark.parametrize('dtype', [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
def test_dequantize(dtype):
    info = torch.iinfo(dtype)
    for shape in ((), (0,), (7,), (3, 5, 33)):
        low, high = max(info.min, -(2**62) + 1), min(info.max, 2**62 - 1)
        x = torch.randint(low, high, shape, dtype=torch.int64)
        x = (x >> torch.randint(0, info.bits, shape)).to(dtype)
        for exponent in (-400, -180, -155, -149, -140, -127, -126, -60, 0, 60, 96, 97, 110, 300):
            assert same(cuda.dequantize(x, exponent), reference.dequantize(x, exponent))
    x = torch.randint(0, 9, (4, 6)).to(dtype).t()
    on_device = torch.tensor(-3, dtype=torch.int32)
    assert same(cuda.dequantize(x, on_device), reference.dequantize(x, -3))


@pytest.mark.parametrize('width', [25, 26, 40, 53, 62])
def test_dequantize_ties(width):
    ties = [(2 * kept + 1) << (width - 25) for kept in (2**23, 2**23 + 1, 2**24 - 1)]
    x = torch.tensor([sign * (tie + d) for tie in ties for d in (-1, 0, 1) for sign in (1, -1)])
    for exponent in (-211, -190, -174, -173, -150, -3, 66, 67, 90, 103, 104):
        assert same(cuda.dequantize(x, exponent), reference.dequantize(x, exponent))


@pytest.mark.parametrize('bits', [8, 16])
def test_channel_sum(bits):
    for shape, dim in (((2, 5, 7, 9), 1), ((300, 40), 1), ((300, 40), -1), ((40,), 0), ((0, 3), 1),
                       ((3, 0), 1), ((2, 3, 4), 0), ((9000, 3), 1)):  # fmt: skip
        x = mantissas(shape, bits)
        if shape == (9000, 3):
            x.mantissa.fill_((1 << bits - 1) - 1)
        assert same(cuda.channel_sum(x, dim), reference.channel_sum(x, dim)), shape


# ---- exact layers ----


def knows_its_top(x):
    return int(known_magnitude(x).max()) == int(
        (x.view(torch.int32) & 0x7FFFFFFF).max() if x.numel() else 0
    )


def special_values(shape):
    x = torch.randint(-3, 3, shape).float()  # many equal elements
    chosen = torch.rand(shape)
    x[x == 0] *= torch.where(chosen[x == 0] < 0.5, 1, -1)
    x[chosen < 0.02] = float('nan')
    x[chosen > 0.9] = -float('inf')
    return x


@pytest.mark.parametrize('inplace', [False, True])
def test_relu(inplace):
    for shape in ((0,), (1,), (7,), (8,), (31,), (32,), (1000,), (3, 5, 7, 11)):
        x, grad = special_values(shape), torch.randn(shape)
        expected, positive = reference.relu(x.clone(), inplace=False)
        given = x.clone()
        actual, actual_positive = cuda.relu(given, inplace)
        assert same(actual, expected) and torch.equal(actual_positive, positive)
        assert (actual is given) == inplace and (inplace or same(given, x))
        assert knows_its_top(actual)
        actual = cuda.relu_grad(grad, positive)
        assert torch.equal(actual, reference.relu_grad(grad, positive)) and knows_its_top(actual)


def test_relu_of_any_memory_layout():
    x = special_values((2, 6, 5, 4)).to(memory_format=torch.channels_last)
    expected, positive = reference.relu(x.clone(), inplace=False)
    for inplace in (False, True):
        given = x.clone(memory_format=torch.preserve_format)
        actual, actual_positive = cuda.relu(given, inplace)
        assert same(actual, expected) and torch.equal(actual_positive, positive)
        assert (actual is given) == inplace


def test_max_pooling():
    pick = rng.Random(0)
    for _ in range(60):
        kernel = pick.randint(1, 4), pick.randint(1, 4)
        pooling = Pooling(
            kernel,
            stride=(pick.randint(1, 3), pick.randint(1, 3)),
            padding=(pick.randint(0, kernel[0] // 2), pick.randint(0, kernel[1] // 2)),
            ceil_mode=pick.random() < 0.5,
        )
        x = special_values((2, 3, pick.randint(4, 11), pick.randint(4, 11)))
        expected, place = reference.max_pool2d(x, pooling)
        actual, actual_place = cuda.max_pool2d(x, pooling)
        assert same(actual, expected) and torch.equal(actual_place, place), pooling
        assert knows_its_top(actual)
        grad = torch.randn(expected.shape)
        actual = cuda.max_pool2d_grad(grad, place, x.shape, pooling)
        expected = reference.max_pool2d_grad(grad, place, x.shape, pooling)
        assert torch.equal(actual, expected) and knows_its_top(actual), pooling


# ---- the update ----


def steps(backend, shape, bits, settings, scale, nesterov, count=3):
    """Parameter and momentum after some steps, the second of them with a gradient of zero."""
    generator = torch.Generator().manual_seed(1)
    param, buffer = torch.randn(shape, generator=generator), None
    for step in range(count):
        grad = torch.randn(shape, generator=generator) * (0 if step == 1 else scale)
        random = BITS._replace(iteration=step)
        update = Update(param, grad, buffer, bits, *settings, nesterov, random)
        (buffer,) = backend.sgd_step([update])
    return param, buffer


def same_momentum(a, b):
    return a is b is None or same_fixed_point(a, b)


@pytest.mark.parametrize('bits', [8, 12, 16])
@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd(bits, nesterov):
    """From the first step on, with exponents near and far apart."""
    settings = [(0.01, 0.9, 1e-4), (0.1, 0.0, 0.0), (0.5, 0.99, 0.3), (0.0, 0.9, 1e-4)]
    scales = [1.0, 1e-4, 1e6, 1e-12, 1e-44, 0.0]
    shapes = itertools.cycle([(), (3, 5, 7), (64,), (0,), (65,)])
    for shape, (setting, scale) in zip(shapes, itertools.product(settings, scales), strict=False):
        param, buffer = steps(cuda, shape, bits, setting, scale, nesterov)
        expected, expected_buffer = steps(reference, shape, bits, setting, scale, nesterov)
        assert same(param, expected) and same_momentum(buffer, expected_buffer)


@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd_of_many_blocks(nesterov):
    shape, setting = (16_500,), (0.1, 0.9, 1e-3)
    param, buffer = steps(cuda, shape, 16, setting, 1e-3, nesterov)
    expected, expected_buffer = steps(reference, shape, 16, setting, 1e-3, nesterov)
    assert same(param, expected) and same_fixed_point(buffer, expected_buffer)


def test_sgd_of_many_parameters():
    """More than one launch takes, each with settings and bits of its own; nothing is fine too."""
    assert cuda.sgd_step([]) == []
    sizes = [1, 70, 5000, 0, 33] * 7
    results = []
    for backend in (cuda, reference):
        torch.manual_seed(3)
        updates = [
            Update(torch.randn(n), torch.randn(n), None, 16 if n % 2 else 8, 0.01 * (i + 1), 0.9,
                   1e-4 * i, i % 3 == 0, BITS._replace(layer=i))
            for i, n in enumerate(sizes)
        ]  # fmt: skip
        momenta = backend.sgd_step(updates)
        results.append([(u.param, m) for u, m in zip(updates, momenta, strict=True)])
    for (param, momentum), (other, expected) in zip(*results, strict=True):
        assert same(param, other) and same_fixed_point(momentum, expected)


def test_sgd_of_subnormals():
    for scale in (1e-38, 1e-41, 1e-44):
        start = torch.randn(100) * scale
        params = [start.clone(), start.clone()]
        grad = torch.randn(100) * 1e-42
        buffers = [
            backend.sgd_step([Update(param, grad, None, 16, 0.5, 0.9, 0.1, True, BITS)])[0]
            for backend, param in zip((cuda, reference), params, strict=True)
        ]
        assert same(*params) and same_fixed_point(*buffers)


def test_sgd_in_place_and_strided():
    start, grad = torch.randn(6, 5), torch.randn(5, 6).t()
    params = [start.t().contiguous().t(), start.clone()]
    for backend, param in zip((cuda, reference), params, strict=True):
        backend.sgd_step([Update(param, grad, None, 16, 0.1, 0.9, 1e-3, True, BITS)])
    assert params[0].stride() == (1, 6)
    assert torch.equal(params[0], params[1])


@pytest.mark.parametrize('value', [math.inf, math.nan])
@pytest.mark.parametrize('numel', [2, 16_500])
def test_sgd_not_finite(value, numel):
    """The parameter stays as it is, and the momentum is zero."""
    bad, good = torch.randn(numel), torch.randn(numel)
    bad[-1] = value
    for param, grad in ((bad, good), (good, bad)):
        before = param.clone()
        update = Update(param, grad, None, 16, 0.1, 0.9, 0.0, True, BITS)
        (buffer,) = cuda.sgd_step([update])
        assert same(param, before) and not buffer.mantissa.any() and buffer.exponent == 0
        with pytest.raises(NonFiniteError):
            cuda.check(CPU)


def test_the_name_of_a_value_that_is_not_finite():
    """`naming` works alike for backends that raise at once and for those that raise later."""
    bad = torch.tensor([math.nan])
    for backend in (reference, cuda):
        with pytest.raises(NonFiniteError, match='layer 3'):
            with naming(lambda: NonFiniteError('layer 3')):
                backend.quantize(bad, 8, BITS)
            cuda.check(CPU)
