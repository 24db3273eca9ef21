"""Norms of the reference against float64, from the same mantissas."""

import math
import random

import pytest
import torch
import torch.utils.checkpoint

from mmint.backends import reference
from mmint.backends.reference import source
from mmint.backends.reference.norms import layer
from mmint.numerics import FixedPoint, RandomBits, Role

EPS = 1e-5


FLOAT64 = 2.0**-44  # what sums in float64 may lose, of the sum of magnitudes
WIDE = 2.0**-28  # what sums of a few wide numbers may lose, of the sum of magnitudes


def value(x):
    return x.mantissa.double() * 2.0 ** x.exponents().double()


def mapped(x, bits, role=Role.INPUT, exponents=()):
    return reference.quantize(x, bits, RandomBits(0, 0, 1, 0, role), exponents=exponents)


def channels_of(x):
    """The shape of an exponent a channel."""
    return 1, x.shape[1], *[1] * (x.dim() - 2)


def units_of(x):
    """2**exponent of each channel, of each image and channel, or of all, as planes broadcast."""
    return 2.0 ** x.exponents().double()


def rounding(x):
    """What rounding to float32 may change."""
    return x.abs() * 2.0**-24 + 2.0**-149


def assert_within(got, want, bound):
    assert got.dtype == torch.float32 and got.shape == want.shape
    assert ((got.double() - want).abs() <= bound).all()


def tensors(shape, channels, scale, seed=0, spread=True):
    """Input, gradient, weight and bias; channels of different means and scales."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, generator=generator)

    x, grad = draw(*shape), draw(*shape) / 50
    if spread:
        per_channel = (1, channels) + (1,) * (len(shape) - 2)
        x = x * draw(*per_channel).exp() + 2 * draw(*per_channel)
    return x * scale, grad, draw(channels), draw(channels)


SHAPES = {
    'image': (4, 6, 5, 7),
    'one pixel': (9, 6, 1, 1),
    'one image': (1, 6, 8, 3),
    'rows': (8, 6),
}
SCALES = [1e-20, 1e-3, 1.0, 1e20]
WIDTHS = [4, 5, 6, 7, 8, 16]
shapes = pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)


def plane_bound(scale, offset, bits):
    """2**-20 of what the largest mantissa gives: a scale and an offset, per unit of a mantissa."""
    return 2.0**-20 * torch.maximum(scale.abs() * 2.0 ** (bits - 1), offset.abs())


def per_channel(v, x):
    return v.view(-1, *[1] * ((x if isinstance(x, torch.Tensor) else x.mantissa).dim() - 2))


def standardised(x, dims):
    """(x - mean) / sqrt(var + eps) in float64; exactly 0 where ``x`` is constant."""
    centred = x - x.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + EPS).rsqrt()


def with_gradients(x, grad, weight, bias, norm):
    """Output and gradients in float64 of ``norm(x) * weight + bias``."""
    leaves = [value(x).requires_grad_()]
    leaves += [None if p is None else p.double().requires_grad_() for p in (weight, bias)]
    out = norm(leaves[0])
    shape = (1, -1) + (1,) * (out.dim() - 2)
    out = out if weight is None else out * leaves[1].view(shape)
    out = out if bias is None else out + leaves[2].view(shape)
    out.backward(value(grad))
    return out.detach(), *(None if leaf is None else leaf.grad for leaf in leaves)


def check_planes(x, grad, weight, bias, groups=None):
    """Batch norm, or group norm where ``groups`` is given, of mapped tensors against float64."""
    channels, bits = x.mantissa.shape[1], x.bits
    batch = groups is None

    def norm(v):
        if batch:
            return standardised(v, [d for d in range(v.dim()) if d != 1])
        return standardised(v.reshape(len(v), groups, -1), [2]).view(v.shape)

    want, want_dx, want_dw, want_db = with_gradients(x, grad, weight, bias, norm)
    sums, products = reference.plane_sums(x), reference.plane_products(grad, x)
    if batch:
        sums, products = sums.sum(1), products.sum(1)
        count = x.mantissa.numel() // channels
        got = reference.batch_norm(x, sums, count, weight, bias, EPS)
        dx, dw, db = reference.batch_norm_grad(grad, x, sums, products, count, weight, EPS)
        grouped = value(x).transpose(0, 1).reshape(1, channels, 1, -1)
        grouped_grad = value(grad).transpose(0, 1).reshape(1, channels, 1, -1)
    else:
        sums = sums.view(2, -1, groups, channels // groups).sum(3)
        got = reference.group_norm(x, sums, weight, bias, EPS)
        dx, dw, db = reference.group_norm_grad(grad, x, sums, products, weight, EPS)
        grouped = value(x).view(len(value(x)), groups, channels // groups, -1)
        grouped_grad = value(grad).view(grouped.shape)
    var, mean = torch.var_mean(grouped, (2, 3), correction=0, keepdim=True)
    rstd = (var + EPS).rsqrt()
    gamma = torch.ones(channels) if weight is None else weight
    beta = torch.zeros(channels) if bias is None else bias
    gamma = gamma.double().view(1, channels, 1) if batch else gamma.double().view(1, groups, -1)
    units = [units_of(t) for t in (x, grad)]
    shape = (-1, channels) + (1,) * (x.mantissa.dim() - 2)
    scale = (gamma * rstd[..., 0]).reshape(shape)
    bound = plane_bound(scale * units[0], per_channel(beta.double(), x), bits)
    assert_within(got, want, bound + rounding(want))

    p = (gamma.abs() * rstd[..., 0]).amax(2)
    spread = (gamma[..., None].abs() * grouped_grad.abs() * (grouped - mean).abs()).mean((2, 3))
    q = spread * (rstd**3)[..., 0, 0]
    members = 1 if batch else channels // groups
    tops = (v.repeat_interleave(members, 1).reshape(shape) for v in (p, q))
    bound = 2.0 ** (bits - 20) * torch.maximum(
        *(v * u for v, u in zip(tops, units[::-1], strict=True))
    )
    assert_within(dx, want_dx, bound + rounding(want_dx))

    if weight is not None:
        normalised = (grouped - mean) * rstd
        terms = (grouped_grad * normalised).reshape(-1, channels, normalised.shape[3])
        bound = terms.sum(2).abs().sum(0) * 2.0**-27 + terms.abs().sum((0, 2)) * FLOAT64
        assert_within(dw, want_dw, bound + rounding(want_dw))
    if bias is not None:
        bound = value(grad).abs().sum() * FLOAT64 + WIDE * value(grad).abs().sum(
            [d for d in range(grad.mantissa.dim()) if d != 1]
        )
        assert_within(db, want_db, bound + rounding(want_db))
    return got, dx


@shapes
@pytest.mark.parametrize('bits', WIDTHS)
def test_batch_norm(shape, bits):
    for seed, scale in enumerate(SCALES):
        x, grad, weight, bias = tensors(shape, 6, scale, seed)
        pair = mapped(x, bits), mapped(grad, bits, Role.GRADIENT)
        check_planes(*pair, weight, bias)
        check_planes(*pair, None, None)
        check_planes(*pair, weight * 1e10, bias * 1e-10)
        check_planes(*pair, weight * 1e-10, bias * 1e10)
        exponents = channels_of(x)
        free = mapped(x, bits, exponents=exponents), mapped(grad, bits, Role.GRADIENT, exponents)
        check_planes(*free, weight, bias)
        check_planes(pair[0], free[1], weight, bias)


@shapes
@pytest.mark.parametrize('bits', WIDTHS)
def test_group_norm(shape, bits):
    for seed, (scale, groups) in enumerate(zip(SCALES, (1, 2, 3, 2), strict=True)):
        x, grad, weight, bias = tensors(shape, 6, scale, seed)
        pair = mapped(x, bits), mapped(grad, bits, Role.GRADIENT)
        check_planes(*pair, weight, bias, groups)
        check_planes(*pair, None, None, groups)
        exponents = len(x), groups, *[1] * (x.dim() - 2)
        free = mapped(x, bits, exponents=exponents), mapped(grad, bits, Role.GRADIENT, exponents)
        check_planes(*free, weight, bias, groups)


@pytest.mark.parametrize('bits', WIDTHS)
def test_nearly_constant_channels(bits):
    """Variance 0 gives the bias itself; a single deviating element keeps the bound."""
    top = 2 ** (bits - 1) - 1
    mantissa = torch.full((2, 4, 3, 5), top)
    mantissa[0, 1, 0, 0] -= 1
    mantissa[0, 2, 0, 0] = -top
    mantissa[:, 3] = 0
    dtype = torch.int8 if bits <= 8 else torch.int16
    for exponent in (-40, -7, 30):
        x = FixedPoint(mantissa.to(dtype), torch.tensor(exponent, dtype=torch.int32), bits)
        _, grad, weight, bias = tensors((2, 4, 3, 5), 4, 1)
        grad = mapped(grad, bits, Role.GRADIENT)
        out, _ = check_planes(x, grad, weight, bias)
        for channel in (0, 3):
            want = bias[channel].double().expand(2, 3, 5)
            assert_within(out[:, channel], want, 2 * rounding(want))
        check_planes(x, grad, weight, bias, groups=2)


def test_input_gradients_of_a_group_sum_to_zero():
    x, grad, weight, _ = tensors((4, 6, 9, 9), 6, 1.0)
    x, grad = mapped(x, 8), mapped(grad, 8, Role.GRADIENT)
    sums, products = reference.plane_sums(x), reference.plane_products(grad, x)
    pair = sums.sum(1), products.sum(1)
    dx = reference.batch_norm_grad(grad, x, *pair, 324, weight, EPS)[0].double()
    assert (dx.sum((0, 2, 3)).abs() <= 2.0**-21 * dx.abs().sum((0, 2, 3))).all()
    sums = sums.view(2, 4, 2, 3).sum(3)
    dx = reference.group_norm_grad(grad, x, sums, products, weight, EPS)[0].double()
    dx = dx.view(4, 2, -1)
    assert (dx.sum(2).abs() <= 2.0**-21 * dx.abs().sum(2)).all()


@shapes
@pytest.mark.parametrize('bits', WIDTHS)
def test_frozen_norm(shape, bits):
    for seed, scale in enumerate(SCALES):
        x, grad, weight, bias = tensors(shape, 6, scale, seed)
        statistics = torch.randn(6) * scale, torch.rand(6) * scale**1.8
        exponents = channels_of(x)
        free = mapped(x, bits, exponents=exponents), mapped(grad, bits, Role.GRADIENT, exponents)
        check_frozen(*free, *statistics, weight, bias)
        x, grad = mapped(x, bits), mapped(grad, bits, Role.GRADIENT)
        check_frozen(x, grad, *statistics, weight, bias)
        check_frozen(x, grad, *statistics, None, None)
        check_frozen(x, grad, *statistics, weight * 1e-12, bias * 1e12)


def check_frozen(x, grad, mean, var, weight, bias):
    """Frozen batch norm of mapped tensors against float64."""
    centre, rstd = mean.double(), (var.double() + EPS).rsqrt()
    want, want_dx, want_dw, _ = with_gradients(
        x, grad, weight, bias, lambda v: (v - per_channel(centre, x)) * per_channel(rstd, x)
    )
    scale = rstd if weight is None else weight.double() * rstd
    offset = (centre * scale).abs() + (0 if bias is None else bias.double().abs())
    terms = per_channel(scale, x) * units_of(x), per_channel(offset, x)
    got = reference.frozen_norm(x, mean, var, weight, bias, EPS)
    assert_within(got, want, plane_bound(*terms, x.bits) + rounding(want))
    dx = reference.frozen_norm_grad(grad, var, weight, EPS)
    scale = per_channel(scale, x) * units_of(grad)
    assert_within(dx, want_dx, plane_bound(scale, torch.zeros(()), x.bits) + rounding(want_dx))
    if weight is not None:
        products = reference.plane_products(grad, x).sum(1)
        dw = reference.frozen_norm_weight_grad(grad, x, products, mean, var, EPS)
        dims = [d for d in range(x.mantissa.dim()) if d != 1]
        terms = value(grad) * per_channel(centre, x), value(grad) * value(x)
        bound = (
            sum(t.sum(dims).abs() * 2.0**-27 + t.abs().sum(dims) * FLOAT64 for t in terms) * rstd
        )
        assert_within(dw, want_dw, bound + rounding(want_dw))


@pytest.mark.parametrize('bits', WIDTHS)
@pytest.mark.parametrize('size', [1, 2, 3, 16, 17, 192, 1000])
def test_layer_norm(size, bits):
    for seed, scale in enumerate((1e-20, 1e-3, 1.0, 1e20)):
        x, grad, weight, bias = tensors((7, size), size, scale, seed, spread=seed % 2 == 0)
        free = mapped(x, bits, exponents=(7, 1))
        x, grad = mapped(x, bits), mapped(grad, bits, Role.GRADIENT)
        check_rows(free, grad, weight, bias)
        check_rows(x, grad, weight, bias)
        check_rows(x, grad, None, None)
        check_rows(x, grad, weight * 1e-8, bias * 1e8)
        check_rows(x, grad, weight * 1e8, bias * 1e-8)


def check_rows(x, grad, weight, bias):
    """Layer norm of mapped rows against float64."""
    size, bits = x.mantissa.shape[1], x.bits
    want, want_dx, want_dw, want_db = with_gradients(
        x, grad, weight, bias, lambda v: standardised(v, [1])
    )
    got, sums = reference.layer_norm(x, weight, bias, EPS)
    dx, dw, db = reference.layer_norm_grad(grad, x, sums, weight, EPS)

    gamma = torch.ones(size).double() if weight is None else weight.double()
    beta = torch.zeros(size).double() if bias is None else bias.double()
    var, mean = torch.var_mean(value(x), 1, correction=0, keepdim=True)
    rstd = (var + EPS).rsqrt()
    normalised = ((value(x) - mean) * rstd).abs()
    # Half a unit of a normalised element, and a hundredth for its scale; half a unit of a weight.
    element = 0.51 * 2.0 ** (math.ceil(math.log2(size) / 2) - 15)
    unit = gamma.abs().max() * 2.0**-15
    bound = element * (gamma.abs() + unit) + normalised * unit + beta.abs().max() * 2.0**-30
    assert_within(got, want, bound + rounding(want))
    if weight is not None:
        bound = value(grad).abs().sum(0) * element
        assert_within(dw, want_dw, bound + rounding(want_dw))
    if bias is not None:
        bound = value(grad).abs().sum(0) * FLOAT64
        assert_within(db, want_db, bound + rounding(want_db))
    largest = value(grad).abs().max() * gamma.abs().max()
    spread = (largest * normalised).mean(1, keepdim=True) * rstd**2
    tops = rstd * largest, spread * units_of(x) * 2.0 ** (bits - 1)
    bound = 2.0**-19 * torch.maximum(*tops) + rstd * largest * 2.0**-15 * (2 + normalised)
    assert_within(dx, want_dx, bound + rounding(want_dx))


def test_a_long_row_with_one_spike_stays_in_range():
    mantissa = torch.zeros(1, 4**8, dtype=torch.int8)
    mantissa[0, 5] = 127
    x = FixedPoint(mantissa, torch.tensor(-3, dtype=torch.int32), 8)
    out, _ = reference.layer_norm(x, None, None, 1e-12)
    assert float(out[0, 5]) == (2**15 - 1) * 2.0**-7 and (out[0, 6:] == out[0, 0]).all()


@pytest.mark.parametrize('bits', [4, 8, 16])
def test_sums_stay_below_what_kernels_rely_on(bits, monkeypatch):
    """Extreme mantissas and coefficients: below 2**(bits + 23), 2**31, 2**(bits + 38)."""
    generator = random.Random(bits)
    torch.manual_seed(0)
    largest = [0]

    def watched(mantissa, exponent):
        if mantissa.dim() > 1:  # not the parameters' gradients
            largest[0] = max(largest[0], int(mantissa.abs().max()))
        return reference.dequantize(mantissa, exponent)

    for module in (source, layer):
        monkeypatch.setattr(module, 'to_float32', watched)
    for _ in range(60):
        shape = (2, 4, generator.choice([1, 9, 50]))
        x, grad = (extreme(shape, bits, generator) for _ in range(2))
        weight, bias = (
            torch.randn(4) * 10.0 ** generator.choice([-30, -3, 0, 3, 30]) for _ in range(2)
        )
        sums, products = reference.plane_sums(x), reference.plane_products(grad, x)
        count = 2 * shape[2]
        reference.batch_norm(x, sums.sum(1), count, weight, bias, EPS)
        pair = sums.sum(1), products.sum(1)
        reference.batch_norm_grad(grad, x, *pair, count, weight, EPS)
        reference.frozen_norm(x, bias, weight.abs(), weight, bias, EPS)
        sums = sums.view(2, 2, 2, 2).sum(3)
        reference.group_norm(x, sums, weight, bias, EPS)
        reference.group_norm_grad(grad, x, sums, products, weight, EPS)
        assert largest[0] < 2 ** (bits + 23)
    for _ in range(60):
        shape = (3, generator.choice([2, 64, 65, 1000]))
        x, grad = (extreme(shape, bits, generator) for _ in range(2))
        weight, bias = (
            torch.randn(shape[1]) * 10.0 ** generator.choice([-30, 0, 30]) for _ in range(2)
        )
        largest[0] = 0
        _, sums = reference.layer_norm(x, weight, bias, EPS)
        assert largest[0] < 2**31
        reference.layer_norm_grad(grad, x, sums, weight, EPS)
        assert largest[0] < 2 ** (bits + 38)


def extreme(shape, bits, generator):
    """Mantissas at the ends of their range, alone or many."""
    top = 2 ** (bits - 1) - 1
    mantissa = {
        'noise': torch.randint(-top, top + 1, shape),
        'signs': (torch.rand(shape) < 0.5) * 2 * top - top,
        'constant': torch.full(shape, -top),
        'sparse': (torch.rand(shape) < 0.05) * top,
        'spike': torch.zeros(shape, dtype=torch.int64),
    }[generator.choice(['noise', 'signs', 'constant', 'sparse', 'spike'])]
    mantissa.view(-1)[generator.randrange(mantissa.numel())] = generator.choice([top, -top, 1])
    dtype = torch.int8 if bits <= 8 else torch.int16
    exponent = torch.tensor(generator.choice([-160, -60, -7, 0, 50]), dtype=torch.int32)
    return FixedPoint(mantissa.to(dtype), exponent, bits)


@pytest.mark.parametrize('momentum', [0.0, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize('scale', [1e-15, 1.0, 1e15])
def test_running_averages(momentum, scale):
    x, *_ = tensors((3, 6, 5, 5), 6, scale)
    for exponents in ((), channels_of(x)):
        check_running(mapped(x, 8, exponents=exponents), momentum, scale)


def check_running(x, momentum, scale):
    old = torch.randn(6) * scale, torch.rand(6) * scale**2
    mean, var = old[0].clone(), old[1].clone()
    reference.update_running(mean, var, x, reference.plane_sums(x).sum(1), 75, momentum)
    batch = torch.var_mean(value(x), (0, 2, 3))[::-1]
    for got, was, new in zip((mean, var), old, batch, strict=True):
        step = momentum * (new - was.double())
        want = was.double() + step
        bound = step.abs() * 2.0**-14.9 + (was.double().abs() + new.abs()) * 2.0**-28
        assert_within(got, want, bound + rounding(want))
