"""Exponents where they cost nothing: what they keep, that they are unbiased, and one a tensor."""

import functools

import pytest
import torch
import torch.nn.functional as F
from comparison import EPS
from torch import nn

import mmint
from mmint.backends import reference
from mmint.layers import (
    IntBatchNorm2d,
    IntConv2d,
    IntConvTranspose2d,
    IntGroupNorm,
    IntLayerNorm,
    IntLinear,
)
from mmint.numerics import RandomBits, Role
from mmint.ops.mapper import Mapper
from mmint.ops.matmul import matmul
from mmint.ops.run import Site, current_run

pytestmark = pytest.mark.usefixtures('fresh_run')
SMALLER = 2.0 ** torch.tensor([0.0, -3, -6, -9])


def channels_of_several_sizes():
    """Four channels, each smaller than the one before by a factor of 8."""
    return torch.randn(8, 4, 6, 6) * SMALLER.view(4, 1, 1)


def rounding_noise(got, want):
    """Of each channel: the norm of the difference over that of float's."""
    error, size = ((t.double()).square().sum((0, 2, 3)).sqrt() for t in (got - want, want))
    return error / size


def norm_of(exponents):
    return IntBatchNorm2d(4, eps=1e-12, exponents=exponents)


# ---- small values beside large ones keep their bits ----


def test_a_small_channel_keeps_its_bits(backend):
    """A norm blows a small channel up to unit variance, and its rounding noise with it."""
    x, grad = channels_of_several_sizes(), torch.randn(8, 4, 6, 6)
    want = F.batch_norm(x, None, None, training=True, eps=1e-12)
    free, one = (rounding_noise(norm_of(e)(x), want) for e in ('free', 'tensor'))
    assert (free < 0.03).all()
    assert one[1] > 2 * free[1] and one[2] > 10 * free[2] and one[3] > 50 * free[3]

    for frozen in (False, True):
        noise = []
        for exponents in ('free', 'tensor'):
            layer, leaf = norm_of(exponents).train(not frozen), torch.randn(8, 4, 6, 6)
            float_leaf = leaf.clone().requires_grad_()
            statistics = (layer.running_mean, layer.running_var) if frozen else (None, None)
            F.batch_norm(float_leaf, *statistics, training=not frozen, eps=1e-12).backward(
                grad * SMALLER.view(4, 1, 1)
            )
            layer(leaf.requires_grad_()).backward(grad * SMALLER.view(4, 1, 1))
            noise.append(rounding_noise(leaf.grad, float_leaf.grad))
        assert (noise[0] < 0.03).all() and noise[1][3] > 10 * noise[0][3]


def test_after_a_constant_channel_there_is_nothing_as_in_float(backend):
    """One exponent a tensor rounds it to two mantissas, whose noise becomes unit variance."""
    x = channels_of_several_sizes()
    x[:, 3] = 0.3
    want = F.batch_norm(x, None, None, training=True)
    assert want[:, 3].abs().max() < 1e-4
    assert (IntBatchNorm2d(4, exponents='tensor')(x)[:, 3].std() > 0.1).all()
    assert norm_of('free')(x[:, 3:].expand(-1, 4, -1, -1) * 0).eq(0).all()
    grid = x.clone()
    grid[:, 3] = (
        0.375  # a value that 8 bits hold at the channel's own exponent, not at the tensor's
    )
    assert (norm_of('free')(grid)[:, 3] == 0).all()


def test_a_small_group_and_a_small_row_keep_their_bits(backend):
    x = torch.randn(4, 6, 5, 5) * torch.tensor([1.0, 2.0**-9]).repeat_interleave(3).view(6, 1, 1)
    rows = torch.randn(6, 64) * 2.0 ** (-3 * torch.arange(6.0))[:, None]
    for free, one, x, float_norm in (
        (*(IntGroupNorm(2, 6, 1e-12, exponents=e) for e in ('free', 'tensor')), x,
         lambda x: F.group_norm(x, 2, eps=1e-12)),
        (*(IntLayerNorm(64, 1e-12, exponents=e) for e in ('free', 'tensor')), rows,
         lambda x: F.layer_norm(x, (64,), eps=1e-12)),
    ):  # fmt: skip
        want = float_norm(x)
        errors = [(layer(x) - want).norm() / want.norm() for layer in (free, one)]
        assert errors[0] < 0.02 and errors[1] > 10 * errors[0]


@pytest.mark.parametrize('layer', [IntConv2d, IntConvTranspose2d])
def test_a_small_channel_of_a_depthwise_convolution_keeps_its_bits(layer, backend):
    """Input, weight and gradient of each channel have an exponent: no product sums over them."""
    x, grad = channels_of_several_sizes(), torch.randn(8, 4, 6, 6) * SMALLER.flip(0).view(4, 1, 1)
    results = {}
    for exponents in ('float', 'free', 'tensor'):
        torch.manual_seed(1)
        given = {} if exponents == 'float' else dict(exponents=exponents)
        kind = (
            layer
            if given
            else {IntConv2d: nn.Conv2d, IntConvTranspose2d: nn.ConvTranspose2d}[layer]
        )
        conv = kind(4, 4, 3, padding=1, groups=4, **given)
        conv.weight.data *= SMALLER.view(4, 1, 1, 1)
        leaf = x.clone().requires_grad_()
        out = conv(leaf)
        out.backward(grad)
        weight_grad = conv.weight.grad.transpose(0, 1)
        results[exponents] = (out - conv.bias.view(4, 1, 1)).detach(), leaf.grad, weight_grad
    for want, free, one in zip(*results.values(), strict=True):
        noise = rounding_noise(free, want), rounding_noise(one, want)
        assert (noise[0] < 0.08).all() and noise[1].max() > 10 * noise[0].max()


@pytest.mark.parametrize(
    'stock, integer',
    [(nn.Conv2d, IntConv2d), (nn.ConvTranspose2d, IntConvTranspose2d), (nn.Linear, IntLinear)],
)
def test_a_dense_weight_keeps_the_bits_of_small_filters_and_of_small_inputs(
    stock, integer, backend
):
    """Inputs and gradients are signs, which have no rounding noise: all of it is the weight's."""
    torch.manual_seed(1)
    sizes = (16, 16) if stock is nn.Linear else (16, 16, 1)
    twin = stock(*sizes, bias=False)
    scales = 2.0 ** -torch.arange(16.0)
    rest = [1] * (twin.weight.dim() - 2)
    twin.weight.data *= scales.view(16, 1, *rest) * scales.view(1, 16, *rest)
    x, grad = (torch.randn(64, 16, *rest).sign() for _ in range(2))
    results = []
    for layer in (twin, *(integer(*sizes, bias=False, exponents=e) for e in ('free', 'tensor'))):
        layer.load_state_dict(twin.state_dict())
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        out.backward(grad)
        results.append([t.detach().flatten(1).T for t in (out, leaf.grad)])
    for want, free, one in zip(*results, strict=True):
        noise = [(got - want).norm(dim=1) / want.norm(dim=1) for got in (free, one)]
        assert (noise[0] < 0.05).all() and noise[1].max() > 10 * noise[0].max()


def test_a_small_head_of_a_product_keeps_its_bits(backend):
    mapper = [Mapper(Site('block', 5), 8, True, 0, exponents=e) for e in ('free', 'tensor')]
    a, b, grad = torch.randn(4, 9, 16), torch.randn(4, 16, 9), torch.randn(4, 9, 9)
    a, b = a * SMALLER.view(4, 1, 1), b * SMALLER.view(4, 1, 1)
    results = []
    for product in (torch.matmul, *(functools.partial(matmul, mapper=m) for m in mapper)):
        leaves = [t.clone().requires_grad_() for t in (a, b)]
        out = product(*leaves)
        out.backward(grad)
        results.append([t.flatten(1).detach() for t in (out, *(t.grad for t in leaves))])
    for want, free, one in zip(*results, strict=True):
        noise = [(got - want).norm(dim=1) / want.norm(dim=1) for got in (free, one)]
        assert (noise[0] < 0.05).all() and noise[1].max() > 10 * noise[0].max()


# ---- unbiased ----


def test_every_channel_is_unbiased(backend):
    """|mean - expectation| within 6 standard errors of the mean, and resolution, each element."""
    x, exponents, draws = channels_of_several_sizes()[:2], (1, 4, 1, 1), 400
    bits = [RandomBits(3, 0, 1, i, Role.INPUT) for i in range(draws)]
    fixed = [backend.quantize(x, 4, b, exponents=exponents) for b in bits]
    unit = 2.0 ** fixed[0].exponents().double()
    assert len(fixed[0].exponent.unique()) == 4
    scaled = x.double() / unit
    fraction = scaled - scaled.floor()
    error = torch.stack([f.mantissa.double() for f in fixed]).mean(0) - scaled
    variance = fraction * (1 - fraction) / draws
    assert (error.abs() <= 6 * variance.sqrt() + 0.02).all()
    total = error.sum((0, 2, 3)).abs()
    assert (total <= 6 * variance.sum((0, 2, 3)).sqrt() + 2.0**-15 * 72).all()


# ---- one a tensor: the paper's mapping ----


def test_one_exponent_a_tensor_is_the_paper_s(backend):
    x, grad = channels_of_several_sizes(), torch.randn(8, 4, 6, 6)
    layer = IntBatchNorm2d(4, exponents='tensor')
    current_run.begin_iteration(5)
    leaf = x.clone().requires_grad_()
    out = layer(leaf)
    out.backward(grad)

    def mapped(x, role):
        bits = RandomBits(0, 0, layer.site.number, 5, role)
        fixed = reference.quantize(x, 8, bits)
        assert fixed.exponent.shape == ()
        return fixed

    fixed, g = mapped(x, Role.INPUT), mapped(grad, Role.GRADIENT)
    sums = reference.plane_sums(fixed, joined=True)
    products = reference.plane_products(g, fixed, joined=True)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    assert torch.equal(out, reference.batch_norm(fixed, sums, 288, weight, bias, EPS))
    dx, _, _ = reference.batch_norm_grad(g, fixed, sums, products, 288, weight, EPS)
    assert torch.equal(leaf.grad, dx)


def test_a_channel_alone_is_mapped_as_a_tensor_alone(backend):
    """Each channel's exponent is what the paper's mapping gives the channel."""
    x = channels_of_several_sizes()
    free = backend.quantize(x, 8, None, exponents=(1, 4, 1, 1))
    for i, exponent in enumerate(free.exponent.flatten()):
        alone = backend.quantize(x[:, i].contiguous(), 8, None)
        assert alone.exponent == exponent
        assert torch.equal(alone.mantissa, free.mantissa[:, i])


# ---- how it is asked for ----


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)) + x


@pytest.mark.parametrize('exponents', ['free', 'tensor'])
def test_a_conversion_passes_it_on(exponents):
    model = Branches()
    report = mmint.convert(model, exponents=exponents)
    assert model.conv.exponents == model.norm.exponents == model.forward.exponents == exponents
    assert {entry.exponents for entry in report if entry.bits} == {exponents}
    assert ("exponents='tensor'" in repr(model.norm)) == (exponents == 'tensor')
    mmint.convert(model, exponents=exponents)
    with pytest.raises(ValueError, match=f"'norm' was given, which has exponents='{exponents}'"):
        other = {'free': 'tensor', 'tensor': 'free'}[exponents]
        mmint.convert(model, include=['norm'], exponents=other)
    assert 'exponents' not in vars(mmint.restore(model).norm)


def test_other_words_are_refused():
    for refused in (lambda: IntBatchNorm2d(4, exponents='channel'),
                    lambda: mmint.convert(Branches(), exponents='channel')):  # fmt: skip
        with pytest.raises(ValueError, match="exponents='channel' was given, 'free' .* 'tensor'"):
            refused()
