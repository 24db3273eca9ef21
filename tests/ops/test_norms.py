"""Integer norms: exact statistics, bounded errors, unbiased, the same in one process or several."""

import copy
import math
import random
from fractions import Fraction

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from mmint.backends import NonFiniteError, reference
from mmint.backends.reference.norms import coefficients, layer
from mmint.conversion import convert
from mmint.layers import (
    IntBatchNorm,
    IntBatchNorm1d,
    IntBatchNorm2d,
    IntGroupNorm,
    IntLayerNorm,
    IntLayerNorm2d,
    IntSyncBatchNorm,
)
from mmint.numerics import FixedPoint, RandomBits, Role, current_run, wide
from mmint.numerics.wide import Wide
from mmint.ops.checkpoint import make_checkpoint_replay

pytestmark = pytest.mark.usefixtures('fresh_run')

EPS = 1e-5
FLOAT64 = 2.0**-44  # what sums in float64 may lose, of the sum of magnitudes


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# Wide numbers, against Python's integers


def mantissas(count=2000):
    """Ends of the range and random interiors, positive."""
    generator = random.Random(0)
    ends = [2**30, 2**30 + 1, 2**30 + 2**29, 2**31 - 2, 2**31 - 1]
    return ends + [generator.randrange(2**30, 2**31) for _ in range(count)]


def wides(seed, count=2000):
    """Random numbers of both signs, some zero, with exponents near and far."""
    generator = random.Random(seed)
    signed = [generator.choice([-1, 1, 1, 0]) * m for m in mantissas(count)]
    exponents = [generator.choice([0, -3, 5, 29, 30, 31, -32, 70, -200]) for _ in signed]
    return Wide(torch.tensor(signed), torch.tensor(exponents))


def exact(x):
    pairs = zip(x.mantissa.tolist(), x.exponent.tolist(), strict=True)
    return [Fraction(m) * Fraction(2) ** e for m, e in pairs]


def assert_close(got, want, bound):
    """Relative errors, exact zeros, and mantissas of 31 bits."""
    for g, w in zip(exact(got), want, strict=True):
        assert abs(g - w) <= bound * abs(w)
    assert all(m == 0 or 2**30 <= abs(m) < 2**31 for m in got.mantissa.tolist())


def test_wide_operations_round_once():
    a, b = wides(1), wides(2)
    bound = Fraction(1, 2**31)
    pairs = list(zip(exact(a), exact(b), strict=True))
    assert_close(wide.multiply(a, b), [x * y for x, y in pairs], bound)
    # Each operand is known to 2**-61 of the larger, so only what they lose in common counts.
    assert_close(wide.add(a, b), [x + y for x, y in pairs], bound + Fraction(1, 2**58))
    positive = b.mantissa > 0
    quotients = [x / y for x, y in pairs if y > 0]
    assert_close(wide.divide(a[positive], b[positive]), quotients, 2 * bound)
    integers = [(-1) ** i * (m << i % 90) + i for i, m in enumerate(mantissas())]
    assert_close(wide.from_integers(integers, torch.device('cpu')), integers, bound)


def test_wide_numbers_hold_every_float():
    patterns = [0, 1, 0x7FFFFF, 0x800000, 0x3F800001, 0x7F7FFFFF]
    x = torch.tensor(patterns + [p - 2**31 for p in patterns], dtype=torch.int32)
    x = torch.cat(
        [x.view(torch.float32), torch.randn(1000) * 10.0 ** torch.randint(-38, 38, (1000,))]
    )
    got = wide.from_float(x)
    assert exact(got) == [Fraction(v) for v in x.tolist()]
    assert torch.equal(wide.to_float(got), x)
    for bad in (math.inf, -math.inf, math.nan):
        with pytest.raises(NonFiniteError):
            wide.from_float(torch.tensor([1.0, bad]))


def test_square_root_is_the_integer_square_root():
    generator = random.Random(0)
    roots = [2**30, 2**30 + 1, 2**31 - 1] + [generator.randrange(2**30, 2**31) for _ in range(3000)]
    d = [r * r + offset for r in roots for offset in (0, -1, 1, 2 * r)]
    d = [v for v in d if 2**60 <= v < 2**62] + [2**62 - 1]
    assert wide.square_root(torch.tensor(d)).tolist() == [math.isqrt(v) for v in d]


def test_rsqrt_errs_by_less_than_its_bound_over_the_whole_range():
    some = mantissas(40)
    for exponent in range(-700, 700):
        x = Wide(torch.tensor(some), torch.full((len(some),), exponent))
        assert_rsqrt(x)
    many = mantissas(20000)
    for exponent in (-1, 0):
        assert_rsqrt(Wide(torch.tensor(many), torch.full((len(many),), exponent)))


def assert_rsqrt(x):
    """``|r * sqrt(x) - 1| <= 2**-30``, that is ``r**2 * x`` within the squares of both ends."""
    r = wide.rsqrt(x)
    ends = [(2**30 + sign) ** 2 for sign in (-1, 1)]
    columns = (x.mantissa, x.exponent, r.mantissa, r.exponent)
    for m, e, rm, re in zip(*(c.tolist() for c in columns), strict=True):
        assert 2**30 <= rm < 2**31
        product, power = m * rm * rm, e + 2 * re + 60
        scaled = product << power if power >= 0 else Fraction(product, 1 << -power)
        assert ends[0] <= scaled <= ends[1]


# Against float64, from the same mantissas


def value(x):
    return x.mantissa.double() * 2.0 ** int(x.exponent)


def mapped(x, bits, role=Role.INPUT):
    return reference.quantize(x, bits, RandomBits(0, 0, 1, 0, role))


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
        dx = reference.batch_norm_grad(grad, x, sums, products, count, weight, EPS)
        dw, db = reference.batch_norm_weight_grad(grad, x, sums, products, count, EPS)
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
    units = [2.0 ** int(t.exponent) for t in (x, grad)]
    shape = (-1, channels) + (1,) * (x.mantissa.dim() - 2)
    scale = (gamma * rstd[..., 0]).reshape(shape)
    bound = plane_bound(scale * units[0], per_channel(beta.double(), x), bits)
    assert_within(got, want, bound + rounding(want))

    p = (gamma.abs() * rstd[..., 0]).amax(2)
    spread = (gamma[..., None].abs() * grouped_grad.abs() * (grouped - mean).abs()).mean((2, 3))
    q = spread * (rstd**3)[..., 0, 0]
    largest = 2.0 ** (bits - 20) * torch.maximum(p * units[1], q * units[0])
    members = 1 if batch else channels // groups
    bound = largest.repeat_interleave(members, 1).reshape(shape)
    assert_within(dx, want_dx, bound + rounding(want_dx))

    if weight is not None:
        normalised = (grouped - mean) * rstd
        terms = (grouped_grad * normalised).reshape(-1, channels, normalised.shape[3])
        bound = terms.sum(2).abs().sum(0) * 2.0**-27 + terms.abs().sum((0, 2)) * FLOAT64
        assert_within(dw, want_dw, bound + rounding(want_dw))
    if bias is not None:
        bound = value(grad).abs().sum() * FLOAT64
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


@shapes
@pytest.mark.parametrize('bits', WIDTHS)
def test_group_norm(shape, bits):
    for seed, (scale, groups) in enumerate(zip(SCALES, (1, 2, 3, 2), strict=True)):
        x, grad, weight, bias = tensors(shape, 6, scale, seed)
        pair = mapped(x, bits), mapped(grad, bits, Role.GRADIENT)
        check_planes(*pair, weight, bias, groups)
        check_planes(*pair, None, None, groups)


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
    dx = reference.batch_norm_grad(grad, x, sums.sum(1), products.sum(1), 324, weight, EPS).double()
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
    terms = per_channel(scale * 2.0 ** int(x.exponent), x), per_channel(offset, x)
    got = reference.frozen_norm(x, mean, var, weight, bias, EPS)
    assert_within(got, want, plane_bound(*terms, x.bits) + rounding(want))
    dx = reference.frozen_norm_grad(grad, var, weight, EPS)
    scale = per_channel(scale * 2.0 ** int(grad.exponent), x)
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
        x, grad = mapped(x, bits), mapped(grad, bits, Role.GRADIENT)
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
    tops = rstd * largest, spread * 2.0 ** (int(x.exponent) + bits - 1)
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

    for module in (coefficients, layer):
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
    x = mapped(x, 8)
    old = torch.randn(6) * scale, torch.rand(6) * scale**2
    mean, var = old[0].clone(), old[1].clone()
    reference.update_running(mean, var, x, reference.plane_sums(x).sum(1), 75, momentum)
    batch = torch.var_mean(value(x), (0, 2, 3))[::-1]
    for got, was, new in zip((mean, var), old, batch, strict=True):
        step = momentum * (new - was.double())
        want = was.double() + step
        bound = step.abs() * 2.0**-14.9 + (was.double().abs() + new.abs()) * 2.0**-28
        assert_within(got, want, bound + rounding(want))


# Layers


LAYERS = {
    'batch 2d': (IntBatchNorm2d, nn.BatchNorm2d, (6,), (4, 6, 5, 7)),
    'batch 1d': (IntBatchNorm1d, nn.BatchNorm1d, (6,), (8, 6)),
    'batch 1d long': (IntBatchNorm1d, nn.BatchNorm1d, (6,), (3, 6, 9)),
    'sync': (IntSyncBatchNorm, nn.BatchNorm2d, (6,), (4, 6, 5, 7)),
    'group': (IntGroupNorm, nn.GroupNorm, (3, 6), (4, 6, 5, 7)),
    'group rows': (IntGroupNorm, nn.GroupNorm, (2, 6), (4, 6)),
    'layer': (IntLayerNorm, nn.LayerNorm, (24,), (2, 5, 24)),
    'layer several': (IntLayerNorm, nn.LayerNorm, ((5, 7),), (4, 6, 5, 7)),
}
layer_cases = pytest.mark.parametrize('case', LAYERS)


def build(case, bits=8, **kwargs):
    """An integer layer with parameters that are not 1 and 0, its float64 twin, input, gradient."""
    integer, stock, args, size = LAYERS[case]
    torch.manual_seed(0)
    layer, twin = integer(*args, bits=bits, **kwargs), stock(*args, **kwargs)
    for p in layer.parameters():
        nn.init.normal_(p)
    twin.load_state_dict(layer.state_dict())
    return layer, twin.double(), torch.randn(size), torch.randn(size) / 50


def run(layer, x, grad):
    """Output, and gradients of input, weight and bias."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out = layer(x)
    out.backward(grad)
    return [out.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


@layer_cases
@pytest.mark.parametrize('training', [True, False])
def test_layers_agree_with_float64(case, training, backend):
    """The mapping's error at 16 bits; formulas are tested above, to the last bits."""
    layer, twin, x, grad = build(case, bits=16)
    got = run(layer.train(training), x, grad)
    want = run(twin.train(training), x.double(), grad.double())
    for g, w in zip(got, want, strict=True):
        assert g.dtype == torch.float32
        assert (g.double() - w).abs().max() <= 2.0**-10 * w.abs().max()
    for g, w in zip(layer.buffers(), twin.buffers(), strict=True):
        assert (g - w).abs().max() <= 2.0**-12
    assert list(layer.state_dict()) == list(twin.state_dict())


@layer_cases
@pytest.mark.parametrize('training', [True, False])
def test_empty_batches(case, training, backend):
    layer, _, x, grad = build(case)
    out, dx, *rest = run(layer.train(training), x[:0], grad[:0])
    assert out.shape == dx.shape == x[:0].shape and all((r == 0).all() for r in rest)
    mean = getattr(layer, 'running_mean', None)
    assert mean is None or (mean == 0).all()


def test_frozen_parameters_get_no_gradients_and_input_is_not_kept(backend):
    layer, _, x, grad = build('batch 2d')
    layer.eval().requires_grad_(False)
    out = layer(x.requires_grad_())
    kept = [t for t in out.grad_fn.saved_tensors if t is not None]
    assert all(t.numel() <= 6 for t in kept)
    out.backward(grad)
    assert layer.weight.grad is None and x.grad is not None


def test_settings_of_batch_norm_mean_what_they_mean_in_pytorch(backend):
    _, _, x, grad = build('batch 2d')
    for kwargs in (dict(affine=False), dict(track_running_stats=False), dict(momentum=None)):
        layer, twin, *_ = build('batch 2d', 16, **kwargs)
        for training in (True, True, False):
            got = run(layer.train(training), x, grad)
            want = run(twin.train(training), x.double(), grad.double())
            for g, w in zip(got, want, strict=True):
                assert (g.double() - w).abs().max() <= 2.0**-10 * w.abs().max()
            x = x + 1
        for g, w in zip(layer.buffers(), twin.buffers(), strict=True):
            assert (g - w).abs().max() <= 2.0**-12 * w.abs().max()


def test_evaluation_uses_running_statistics_and_rounds_to_nearest(backend):
    layer, _, x, _ = build('batch 2d')
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        out = layer.eval()(x)
    fixed = reference.quantize(x, 8, None)
    statistics = layer.running_mean, layer.running_var
    parameters = layer.weight.detach(), layer.bias.detach()
    assert torch.equal(out, reference.frozen_norm(fixed, *statistics, *parameters, EPS))
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@layer_cases
def test_a_seed_names_the_bits(case, backend):
    layer, _, x, grad = build(case)
    state = copy.deepcopy(layer.state_dict())
    results = []
    for iteration in (0, 0, 1):
        layer.load_state_dict(state)
        current_run.begin_iteration(iteration)
        results.append(run(layer, x, grad))
    first, again, other = results
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_channels_first_layer_norm(backend):
    torch.manual_seed(0)
    layer, x = IntLayerNorm2d(6, bits=16), torch.randn(2, 6, 5, 4)
    want = F.layer_norm(x.permute(0, 2, 3, 1), (6,))
    assert (layer(x) - want.permute(0, 3, 1, 2)).abs().max() < 2.0**-10
    assert (layer(x.permute(0, 2, 3, 1), 'channel_last') - want).abs().max() < 2.0**-10


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('reentrant', [True, False])
def test_checkpointing_draws_the_same_bits(training, reentrant, backend, monkeypatch):
    """In a frozen batch norm too, though a re-entrant checkpoint first runs without gradients."""
    stock = torch.utils.checkpoint.checkpoint
    stock = getattr(stock, '__wrapped__', stock)
    monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', stock)
    make_checkpoint_replay()
    layer, _, x, grad = build('batch 2d')
    body = nn.Sequential(layer.train(training), nn.ReLU(), build('group')[0].train(training))
    results = []
    for kept in (True, False):
        current_run.begin_iteration(0)
        leaf = x.clone().requires_grad_()
        out = (
            body(leaf)
            if kept
            else torch.utils.checkpoint.checkpoint(body, leaf, use_reentrant=reentrant)
        )
        body.zero_grad()
        out.backward(grad)
        results.append([out.detach(), leaf.grad, *(p.grad.clone() for p in body.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# Unbiased where the contract promises it: each mapping to 2**-16 of a unit.

DRAWS = 400
LOG_ODDS = 20  # a comparison fails with probability below 2 * exp(-20) = 4e-9 by bad luck


def assert_unbiased(x, samples):
    """Estimates of ``x`` (DRAWS, ...) that round each element up or down to a unit.

    Bernstein's inequality, for each element and for the sum over all of them, in which a common
    bias shows: ``|mean of N - expectation| <= sqrt(2 v l / N) + l / (3 N)`` units, of variance v.
    """
    unit = 2.0 ** int(reference.quantize(x, 4, None).exponent)
    scaled = x.double() / unit
    fraction = scaled - scaled.floor()
    variance = fraction * (1 - fraction)
    error = samples.mean(0) / unit - scaled
    for e, v, resolution in (
        (error, variance, 2.0**-15),
        (error.sum(), variance.sum(), 2.0**-15 * error.numel()),
    ):
        bound = (2 * v * LOG_ODDS / DRAWS).sqrt() + LOG_ODDS / (3 * DRAWS)
        assert (e.abs() <= bound + resolution).all()


def test_frozen_batch_norm_is_unbiased(backend):
    layer, _, x, grad = build('batch 2d', bits=4)
    layer.running_var.uniform_(0.5, 2)
    layer.running_mean.normal_()
    outs, grads = [], []
    for iteration in range(DRAWS):
        current_run.begin_iteration(iteration)
        out, dx, *_ = run(layer.eval(), x, grad)
        outs.append(out)
        grads.append(dx)
    state = {k: per_channel(v, out) for k, v in layer.double().state_dict().items() if v.dim()}
    scale = state['weight'] / (state['running_var'] + EPS).sqrt()
    outs = (torch.stack(outs).double() - state['bias']) / scale + state['running_mean']
    assert_unbiased(x, outs)
    assert_unbiased(grad, torch.stack(grads).double() / scale)


def test_means_are_unbiased_and_variances_add_that_of_the_mapping(backend):
    """The paper's equation (5), with each element's own variance of rounding.

    Within 5 standard errors, estimated from the draws, for 6 channels: by bad luck in one of
    100,000 runs.
    """
    layer, _, x, _ = build('batch 2d', bits=4, momentum=1.0)
    means, variances = [], []
    for iteration in range(DRAWS):
        current_run.begin_iteration(iteration)
        layer(x)
        means.append(layer.running_mean.clone())
        variances.append(layer.running_var.clone())
    unit = 2.0 ** int(reference.quantize(x, 4, None).exponent)
    fraction = x.double() / unit - (x.double() / unit).floor()
    added = (unit**2 * fraction * (1 - fraction)).mean((0, 2, 3))
    assert (added > 0).all() and (added <= unit**2 / 4).all()
    var, mean = torch.var_mean(x.double(), (0, 2, 3))
    for samples, want in ((means, mean), (variances, var + added)):
        samples = torch.stack(samples).double()
        error = samples.std(0) / math.sqrt(DRAWS)
        assert ((samples.mean(0) - want).abs() <= 5 * error + 2.0**-14 * unit).all()


# Several processes


def joint_batch():
    """Values on the grid of the joint batch, so that no mapping depends on random bits.

    The second process's are small: alone it would choose another exponent.
    """
    generator = torch.Generator().manual_seed(0)
    parts = []
    for top, images in ((127, 3), (9, 2)):
        x = torch.randint(-top, top + 1, (images, 6, 4, 5), generator=generator).float()
        x[0, 0, 0, 0] = top
        parts.append(x / 32)
    return parts, [p.flip(3) / 64 for p in parts]


def sync_process(rank, path, out):
    """One of two processes that share a batch."""
    dist.init_process_group('gloo', init_method=f'file://{path}', rank=rank, world_size=2)
    current_run.rank = rank
    (x, grad) = (parts[rank] for parts in joint_batch())
    layer = build('sync')[0]
    torch.save((run(layer, x, grad), layer.state_dict()), f'{out}{rank}')
    with pytest.raises(NonFiniteError, match='gradient'):
        run(layer, x, grad * (math.nan if rank else 1))
    dist.destroy_process_group()


def test_two_processes_equal_one_on_the_joint_batch_to_the_bit(tmp_path):
    mp.spawn(sync_process, (tmp_path / 'rendezvous', tmp_path / 'out'), nprocs=2)
    parts = [torch.load(tmp_path / f'out{rank}') for rank in range(2)]
    layer = build('sync')[0]
    want = run(layer, *(torch.cat(p) for p in joint_batch()))
    got = [torch.cat(pair) for pair in zip(parts[0][0][:2], parts[1][0][:2], strict=True)]
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    for _, state in parts:
        assert all(torch.equal(v, state[k]) for k, v in layer.state_dict().items())
    # Parameters' gradients are each process's own, as in PyTorch: averaged with all others later.
    for i in (2, 3):
        total = parts[0][0][i].double() + parts[1][0][i].double()
        assert ((total - want[i]).abs() <= 2.0**-22 * parts[0][0][i].abs().max()).all()


# What is refused


def test_one_value_a_channel_is_refused_in_training(backend):
    layer = IntBatchNorm2d(3)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        layer(torch.randn(1, 3, 1, 1))
    assert layer.eval()(torch.randn(1, 3, 1, 1)).isfinite().all()


@pytest.mark.parametrize(
    'layer, size',
    [
        (IntBatchNorm2d(3), (2, 3, 4)),
        (IntBatchNorm2d(3), (2, 4, 4, 3)),
        (IntBatchNorm1d(3), (2, 3, 4, 4)),
        (IntBatchNorm(3), (3,)),
        (IntSyncBatchNorm(3), (2, 4, 4, 4)),
        (IntGroupNorm(1, 3), (2, 4)),
        (IntLayerNorm(3), (2, 4)),
        (IntLayerNorm((3, 4)), (2, 4, 4)),
    ],
)
def test_shapes_are_checked(layer, size):
    with pytest.raises(ValueError, match=rf'{type(layer).__name__} was given an input of shape'):
        layer(torch.randn(size))


def test_eps_must_be_positive():
    with pytest.raises(ValueError, match=r'eps=0.0 was given to a IntLayerNorm'):
        IntLayerNorm(3, eps=0.0)


@layer_cases
@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_errors_name_layer_tensor_and_iteration(case, bad, backend):
    layer, _, x, grad = build(case)
    layer.site.name = 'backbone.norm'
    current_run.begin_iteration(3)

    def refuses(tensor, x, grad):
        with pytest.raises(NonFiniteError, match=rf'backbone.norm .*{tensor}.* iteration 3'):
            run(layer, x, grad)

    spoilt = torch.zeros(x.shape)
    spoilt.view(-1)[7] = bad
    refuses('input', x + spoilt, grad)
    refuses('gradient', x, grad + spoilt)
    for name in ('bias', 'weight'):
        parameter = getattr(layer, name)
        layer.load_state_dict({**layer.state_dict(), name: torch.full_like(parameter, bad)})
        refuses(name, x, grad)


def test_spoilt_running_statistics_are_named(backend):
    for training in (True, False):
        layer = IntBatchNorm2d(3).train(training)
        layer.running_var[1] = math.nan
        with pytest.raises(NonFiniteError, match='running_mean and running_var'):
            layer(torch.randn(2, 3, 4, 4))
    layer.running_var[1] = -1
    with pytest.raises(NonFiniteError, match='negative'):
        layer(torch.randn(2, 3, 4, 4))


def test_other_dtypes_are_refused(backend):
    with pytest.raises(TypeError, match=r'input of torch.float64'):
        IntBatchNorm2d(3)(torch.randn(2, 3, 4, 4).double())
    with pytest.raises(TypeError, match=r'weight of torch.float64'):
        IntGroupNorm(1, 3).double()(torch.randn(2, 3, 4, 4))


# Conversion


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


def small_resnet():
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.SyncBatchNorm(8), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 4)
    return nn.Sequential(*stem, Block(8), nn.GroupNorm(2, 8), Block(8), *head)


def test_a_resnet_converts_whole_and_stays_interchangeable(backend):
    model = small_resnet()
    params, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    state = copy.deepcopy(model.state_dict())
    convert(model, bits=16)
    classes = {type(m) for m in model.modules()}
    assert {IntBatchNorm2d, IntSyncBatchNorm, IntGroupNorm, IntLayerNorm} <= classes
    assert all(p is params[n] for n, p in model.named_parameters())
    assert all(b is buffers[n] for n, b in model.named_buffers())
    assert list(model.state_dict()) == list(state)
    twin = small_resnet().double()
    twin.load_state_dict(state)
    x = torch.randn(4, 3, 17, 17)
    got, want = model(x), twin(x.double())
    assert (got - want).abs().max() <= 2.0**-8 * want.abs().max()
    got.square().sum().backward()
    want.square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p.grad - q.grad).norm() <= 2.0**-5 * q.grad.norm()  # ReLUs may flip
    small_resnet().load_state_dict(model.state_dict(), strict=True)


def test_nothing_is_converted_if_a_norm_has_no_integer_counterpart():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0))
    with pytest.raises(ValueError, match=r'eps=0 was given to a BatchNorm2d'):
        convert(model)
    assert type(model[0]) is nn.Conv2d
    convert(model, exclude=['1'])


def test_norms_of_openmmlab(backend):
    cnn = pytest.importorskip('mmcv.cnn')
    utils = pytest.importorskip('mmengine.model.utils')
    for name, kwargs, abbreviation in (
        ('IntBatchNorm2d', {}, 'bn'),
        ('IntSyncBatchNorm', dict(requires_grad=False), 'bn'),
        ('IntGroupNorm', dict(num_groups=2), 'gn'),
        ('IntLayerNorm', {}, 'ln'),
    ):
        key, layer = cnn.build_norm_layer(dict(type=name, **kwargs), 8, postfix=1)
        assert key == f'{abbreviation}1' and layer.weight.shape == (8,) and layer.bits == 8
        assert layer(torch.randn(2, 8, 3, 8)).shape == (2, 8, 3, 8)
    model = nn.Sequential(
        utils.revert_sync_batchnorm(nn.SyncBatchNorm(8)),
        cnn.build_norm_layer(dict(type='SyncBN'), 8)[1],
        cnn.build_norm_layer(dict(type='GN', num_groups=2), 8)[1],
    )
    convert(model)
    assert [type(m) for m in model] == [IntBatchNorm, IntSyncBatchNorm, IntGroupNorm]


def test_channels_first_layer_norm_of_mmpretrain_is_converted(backend):
    stock = pytest.importorskip('mmpretrain.models.utils').LayerNorm2d(6)
    model = nn.Sequential(stock)
    x = torch.randn(2, 6, 4, 5)
    want = model(x)
    convert(model, bits=16)
    assert type(model[0]) is IntLayerNorm2d
    assert (model(x) - want).abs().max() < 2.0**-10
