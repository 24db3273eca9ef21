"""Integer layers: as exact as their bits promise, unbiased, reproducible."""

import copy
import io
import math
import re

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from mmint import backends
from mmint.backends import NonFiniteError
from mmint.layers import IntConv2d, IntConvTranspose2d, IntLinear
from mmint.numerics import RandomBits, Role, current_run
from mmint.ops.checkpoint import make_checkpoint_replay

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


@pytest.fixture
def checkpoint(monkeypatch):
    """PyTorch's function as it is without mmint; what a test does to it is undone."""
    stock = torch.utils.checkpoint.checkpoint
    stock = getattr(stock, '__wrapped__', stock)
    monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', stock)
    return stock


def conv(*args, **kwargs):
    return IntConv2d, nn.Conv2d, args, kwargs


def transposed(*args, **kwargs):
    return IntConvTranspose2d, nn.ConvTranspose2d, args, kwargs


def linear(*args, **kwargs):
    return IntLinear, nn.Linear, args, kwargs


CASES = {
    'conv-1x1': (conv(5, 7, 1), (2, 5, 6, 4)),
    'conv-3x3': (conv(5, 7, 3, padding=1), (2, 5, 9, 8)),
    'conv-no-bias': (conv(5, 7, 3, bias=False), (2, 5, 9, 8)),
    'conv-stride': (conv(3, 8, 7, stride=2, padding=3), (2, 3, 17, 15)),
    'conv-leftover-rows': (conv(3, 4, 3, stride=3), (2, 3, 11, 10)),
    'conv-rectangular': (conv(3, 4, (3, 2), (2, 1), (0, 1), (1, 3)), (2, 3, 12, 9)),
    'conv-dilation': (conv(4, 6, 3, padding=4, dilation=4), (2, 4, 9, 10)),
    'conv-groups': (conv(6, 9, 3, padding=1, groups=3), (2, 6, 7, 5)),
    'conv-depthwise': (conv(6, 6, 3, stride=2, padding=1, groups=6), (2, 6, 9, 9)),
    'conv-depth-multiplier': (conv(4, 8, 3, groups=4), (2, 4, 6, 7)),
    'conv-padding-same': (conv(3, 4, 4, padding='same'), (2, 3, 7, 8)),
    'conv-padding-valid': (conv(3, 4, 3, padding='valid'), (2, 3, 7, 8)),
    'conv-reflect': (conv(3, 4, 3, padding=2, padding_mode='reflect'), (2, 3, 7, 8)),
    'conv-replicate': (conv(3, 4, 3, padding=1, padding_mode='replicate'), (2, 3, 7, 8)),
    'conv-circular': (conv(3, 4, 3, padding=(1, 2), padding_mode='circular'), (2, 3, 7, 8)),
    'conv-one-image': (conv(3, 4, 3, padding=1), (3, 7, 8)),
    'conv-empty-batch': (conv(3, 4, 3, padding=1), (0, 3, 7, 8)),
    'conv-one-pixel': (conv(3, 4, 1), (1, 3, 1, 1)),
    'conv-many-channels': (conv(130, 67, 1), (1, 130, 3, 3)),
    'transposed': (transposed(5, 7, 3), (2, 5, 6, 4)),
    'transposed-stride': (transposed(4, 6, 4, stride=2, padding=1), (2, 4, 5, 7)),
    'transposed-output-padding': (
        transposed(4, 6, 3, stride=2, padding=1, output_padding=1),
        (2, 4, 5, 7),
    ),
    'transposed-dilation': (transposed(4, 6, 3, padding=2, dilation=2), (2, 4, 5, 7)),
    'transposed-groups': (transposed(4, 6, 3, stride=2, groups=2, bias=False), (2, 4, 5, 7)),
    'transposed-depthwise': (transposed(4, 4, 4, stride=2, padding=1, groups=4), (2, 4, 5, 5)),
    'transposed-one-image': (transposed(3, 4, 2, stride=2), (3, 7, 8)),
    'transposed-empty-batch': (transposed(3, 4, 2, stride=2), (0, 3, 7, 8)),
    'linear': (linear(20, 9), (6, 20)),
    'linear-no-bias': (linear(20, 9, bias=False), (6, 20)),
    'linear-vector': (linear(20, 9), (20,)),
    'linear-tokens': (linear(12, 8), (2, 3, 5, 12)),
    'linear-empty-batch': (linear(12, 8), (0, 12)),
    'linear-one-output': (linear(65, 1), (33, 65)),
}
cases = pytest.mark.parametrize('case', CASES)


def build(case, bits=8, seed=0):
    """An integer layer, its float64 twin, an input and an output gradient."""
    (integer, stock, args, kwargs), size = CASES[case]
    torch.manual_seed(seed)
    layer = integer(*args, bits=bits, **kwargs)
    twin = stock(*args, **kwargs).double()
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(size)
    grad = torch.randn(twin(x.double()).shape) / 50
    return layer, twin, x, grad


def run(layer, x, grad):
    """Output, and gradients of input, weight and bias (None without a bias)."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out = layer(x)
    out.backward(grad)
    bias = layer.bias
    return out.detach(), x.grad, layer.weight.grad.clone(), None if bias is None else bias.grad


def products(twin, x, weight, grad):
    """The four bilinear forms of a layer without bias, in float64."""
    twin = copy.deepcopy(twin)
    twin.weight.data = weight
    if twin.bias is not None:
        twin.bias.data.zero_()
    return run(twin, x, grad)


def unit(x, bits):
    """The most by which mapping ``x`` may change an element: one unit of its grid."""
    top = float(x.detach().abs().max()) if x.numel() else 0.0
    if top == 0:
        return 0.0
    p = bits - 1
    exponent = max(math.frexp(top)[1], -125) - p
    return 2.0**exponent * (2 if top > (2**p - 1) * 2.0**exponent else 1)


def error_bounds(twin, x, grad, bits):
    """What the bits imply: |x'w' - xw| <= |dx||w| + |x||dw| + |dx||dw|, and so for each product.

    d is below one unit for every element of a tensor. The bias is rounded to the sums' exponent,
    and the result to float32 (gradients of padding modes are summed in float32 once more).
    """
    weight = twin.weight.detach()
    values = [t.double().abs() for t in (x, weight, grad)]
    units = [torch.full_like(v, unit(v, bits)) for v in values]
    mixed = [products(twin, *[units[i] if i in which else values[i] for i in range(3)])
             for which in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2))]  # fmt: skip
    rounding = products(twin, *values)
    ux, uw, ug, uxw, uxg, uwg = mixed
    bounds = [ux[0] + uw[0] + uxw[0], ug[1] + uw[1] + uwg[1], ug[2] + ux[2] + uxg[2], ug[3]]
    if twin.bias is not None:
        bounds[0] = bounds[0] + unit(x, bits) * unit(weight, bits)
        largest = float(twin.bias.detach().abs().max())
        rounding = (rounding[0] + largest, *rounding[1:])
    return [None if r is None else b + r * 2.0**-22 for b, r in zip(bounds, rounding, strict=True)]


# Against float64


@cases
@pytest.mark.parametrize('bits', [8, 16])
def test_output_and_gradients_stay_within_what_the_bits_imply(case, bits):
    layer, twin, x, grad = build(case, bits)
    bounds = error_bounds(twin, x, grad, bits)
    want = run(twin, x.double(), grad.double())
    for training in (True, False):
        got = run(layer.train(training), x, grad)
        for g, w, bound in zip(got, want, bounds, strict=True):
            assert (g is None) == (w is None)
            if g is not None:
                assert g.dtype == torch.float32 and g.shape == w.shape
                assert ((g.double() - w).abs() <= bound).all()


@pytest.mark.parametrize('bits', [4, 5, 6, 7, 9, 12])
@pytest.mark.parametrize('case', ['conv-stride', 'transposed-stride', 'linear'])
def test_every_width_keeps_its_bound(case, bits):
    test_output_and_gradients_stay_within_what_the_bits_imply(case, bits)


@pytest.mark.parametrize('scales', [(1e-20, 1e-15, 1e-3), (1e18, 1e-18, 1e10), (1e-38, 1, 1e-38)])
@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
def test_scales_far_from_one_keep_their_bound(case, scales):
    layer, twin, x, grad = build(case)
    x, grad = x * scales[0], grad * scales[2]
    for module in (layer, twin):
        module.weight.data *= scales[1]
    twin.load_state_dict(layer.state_dict())
    bounds = error_bounds(twin, x, grad, 8)
    want = run(twin, x.double(), grad.double())
    for g, w, bound in zip(run(layer, x, grad), want, bounds, strict=True):
        assert ((g.double() - w).abs() <= bound + 2.0**-149).all()


def mapped(x, bits, random):
    """The contract's formula in float64: mantissas times unit, exact."""
    step = unit(x, bits)
    if random is None:
        return torch.round(x.double() / step) * step
    drawn = random.draw(x.numel()).view(x.shape)
    fine = torch.floor(x.double().abs() / step * 2**16)
    return torch.sign(x) * torch.floor((fine + drawn) / 2**16) * step


# A padding mode pads before the mapping, so that the mapped tensor is another one.
FORMULA_CASES = [c for c in CASES if not re.search('empty|one-image|vector|tokens|valid', c)]
FORMULA_CASES = [c for c in FORMULA_CASES if not re.search('same|reflect|replicate|circular', c)]


@pytest.mark.parametrize('case', FORMULA_CASES)
def test_bits_are_those_of_the_formula(case):
    """Every tensor mapped with the bits of its role; sums exact; one rounding to float32."""
    layer, twin, x, grad = build(case)
    current_run.seed = 3
    current_run.begin_iteration(17)
    got = run(layer, x, grad)

    def random(role):
        return RandomBits(3, 0, layer.site.number, 17, role, 0)

    values = (
        mapped(x, 8, random(Role.INPUT)),
        mapped(layer.weight.detach(), 8, random(Role.WEIGHT)),
        mapped(grad, 8, random(Role.GRADIENT)),
    )
    want = list(products(twin, *values))
    if layer.bias is not None:
        exponent = unit(x, 8) * unit(layer.weight, 8)
        bias = layer.bias.detach()
        fine = torch.floor(bias.double().abs() / exponent * 2**16)
        fine = torch.floor((fine + random(Role.BIAS).draw(len(bias))) / 2**16)
        fine = torch.sign(bias) * fine * exponent
        want[0] = want[0] + fine.view([-1, 1, 1] if want[0].dim() == 4 else [-1])
    for g, w in zip(got, want, strict=True):
        if g is not None:
            assert torch.equal(g, w.float())


def test_long_sums_do_not_wrap():
    """A weight gradient over more than 2**31 / 127**2 positions, all at the largest mantissa."""
    layer = IntConv2d(1, 1, 1, bias=False)
    x = torch.full((3, 1, 256, 256), 127.0)
    _, _, weight_grad, _ = run(layer, x, torch.full_like(x, -127.0))
    assert weight_grad.item() == -127 * 127 * 3 * 256 * 256
    layer = IntLinear(200_000, 1, bias=False)
    layer.weight.data.fill_(127.0)
    out = layer(torch.full((1, 200_000), 127.0))
    assert out.item() == float(np.float32(127 * 127 * 200_000))


# Unbiased


@pytest.mark.slow
@pytest.mark.parametrize(
    'case, bits', [('conv', 8), ('transposed', 8), ('linear', 8), ('linear', 4)]
)
def test_mean_over_draws_is_what_float64_computes(backend, case, bits):
    """Output and all gradients within 5 standard errors of float64's.

    2,000 draws, and 500 on the reference backend, which takes longer over the same bits.
    """
    (integer, stock, args, kwargs), size = {
        'conv': (conv(2, 3, 3, stride=2, padding=1), (2, 2, 5, 4)),
        'transposed': (transposed(2, 3, 3, stride=2, padding=1), (2, 2, 3, 4)),
        'linear': (linear(7, 4), (3, 7)),
    }[case]
    torch.manual_seed(0)
    layer, twin = integer(*args, bits=bits, **kwargs), stock(*args, **kwargs).double()
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(size)
    grad = torch.randn(twin(x.double()).shape)
    want = run(twin, x.double(), grad.double())
    draws = 500 if backend.name == 'reference' else 2000
    totals = [torch.zeros_like(w) for w in want]
    squares = [torch.zeros_like(w) for w in want]
    for iteration in range(draws):
        current_run.begin_iteration(iteration)
        for value, w, total, square in zip(run(layer, x, grad), want, totals, squares, strict=True):
            error = value.double() - w
            total += error
            square += error**2
    bounds = error_bounds(twin, x, grad, bits)
    for total, square, bound in zip(totals, squares, bounds, strict=True):
        mean = total / draws
        standard_error = ((square / draws - mean**2).clamp(min=0) / draws).sqrt()
        # A rounding's own bias is below 2**-16 units, so a product's below 2**-16 bounds.
        assert (mean.abs() <= 5 * standard_error + bound * 2.0**-15).all()


# Random bits: when, which, and how often


def test_same_seed_and_iteration_give_the_same_bits_and_others_others():
    layer, _, x, grad = build('conv-3x3')

    def at(seed, iteration):
        current_run.seed = seed
        current_run.begin_iteration(iteration)
        return run(layer, x, grad)

    first = at(0, 0)
    for other in ((0, 1), (1, 2)):
        for a, b in zip(first, at(*other), strict=True):
            assert not torch.equal(a, b)
    for a, b in zip(first, at(0, 0), strict=True):
        assert torch.equal(a, b)


def test_another_seed_maps_the_weight_anew_within_the_same_iteration():
    layer, _, _, _ = build('conv-3x3')
    first = layer.mapped_weight().mantissa
    current_run.seed = 1
    assert not torch.equal(first, layer.mapped_weight().mantissa)


def test_two_calls_in_one_iteration_draw_different_bits():
    layer, _, x, grad = build('conv-3x3')
    first, second = run(layer, x, grad), run(layer, x, grad)
    for a, b in zip(first[:3], second[:3], strict=True):
        assert not torch.equal(a, b)


@pytest.mark.parametrize('case', ['conv-3x3', 'conv-reflect', 'transposed-stride', 'linear'])
def test_evaluation_rounds_to_nearest_and_draws_nothing(case):
    layer, twin, x, _ = build(case)
    layer.eval()
    outs = []
    with torch.no_grad():
        for seed, iteration in ((0, 0), (1, 0), (0, 1)):
            current_run.seed = seed
            current_run.begin_iteration(iteration)
            outs += [layer(x), layer(x)]
        twin.weight.data = mapped(layer.weight.detach(), 8, None)
        step = unit(x, 8) * unit(layer.weight, 8)
        twin.bias.data = torch.round(layer.bias.double() / step) * step
        want = twin(mapped(x, 8, None)).float()
    for out in outs:
        assert torch.equal(out, want)


@pytest.fixture
def mappings(backend):
    """The roles of the tensors that are mapped, in order."""
    roles = []

    def noted(name, operation, args, kwargs):
        if name == 'quantize':
            roles.append(args[2].role)
        return operation(*args, **kwargs)

    with backends.watched(noted):
        yield roles


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
def test_a_weight_is_mapped_once_an_iteration(case, mappings):
    layer, _, x, grad = build(case)
    for iteration in range(3):
        current_run.begin_iteration(iteration)
        del mappings[:]
        for _ in range(4):
            run(layer, x, grad)
        assert mappings.count(Role.WEIGHT) == 1
        assert mappings.count(Role.INPUT) == 4


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
def test_a_gradient_is_mapped_once_for_both_products(case, mappings):
    layer, _, x, grad = build(case)
    run(layer, x, grad)
    assert mappings.count(Role.GRADIENT) == 1


def test_a_changed_weight_is_mapped_anew():
    """Within an iteration too: by an optimizer, a checkpoint, a new tensor, a change of mode."""
    layer, _, x, _ = build('linear')
    layer.eval()
    other = build('linear', seed=1)[0]
    with torch.no_grad():
        layer(x)
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(x), other.eval()(x))
        layer.weight.add_(1)
        other.weight.add_(1)
        assert torch.equal(layer(x), other(x))
        layer.weight = nn.Parameter(other.weight * 2)
        other.weight.mul_(2)
        assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
def test_gradients_that_nobody_wants_are_not_computed(case):
    layer, _, x, grad = build(case)
    layer.weight.requires_grad_(False)
    inputs = x.clone().requires_grad_()
    layer(inputs).backward(grad)
    assert layer.weight.grad is None and inputs.grad is not None and layer.bias.grad is not None


# Activation checkpointing


class Twice(nn.Module):
    """Three layers, one of them called twice."""

    def __init__(self):
        super().__init__()
        self.first = IntConv2d(3, 4, 3, padding=1)
        self.second = IntConv2d(4, 4, 3, padding=1)
        self.third = IntConvTranspose2d(4, 2, 2, stride=2)

    def forward(self, x):
        x = self.second(self.first(x).relu())
        return self.third(self.second(x.relu()))


def run_checkpointed(model, x, iteration, **kwargs):
    """Three segments, the model called twice, as re-entrant or not as ``kwargs`` say."""
    current_run.begin_iteration(iteration)
    model.zero_grad()
    x = x.clone().requires_grad_()
    if kwargs:
        part = torch.utils.checkpoint.checkpoint(model, x, **kwargs)
        other = torch.utils.checkpoint.checkpoint(model, x * 2, **kwargs)
    else:
        part, other = model(x), model(x * 2)
    (part.square().sum() + other.sum()).backward()
    return [part.detach(), other.detach(), x.grad, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('use_reentrant', [True, False])
def test_checkpointing_gives_the_bits_of_no_checkpointing(checkpoint, use_reentrant, training):
    make_checkpoint_replay()
    torch.manual_seed(0)
    model, x = Twice().train(training), torch.randn(2, 3, 6, 6)
    for iteration in range(2):
        plain = run_checkpointed(model, x, iteration)
        for a, b in zip(
            plain, run_checkpointed(model, x, iteration, use_reentrant=use_reentrant), strict=True
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_nested_checkpointing_gives_the_bits_of_no_checkpointing(checkpoint, use_reentrant):
    make_checkpoint_replay()
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(2, 3, 6, 6)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model
            self.last = IntConv2d(2, 3, 1)

        def forward(self, x):
            inner = torch.utils.checkpoint.checkpoint(self.model, x, use_reentrant=use_reentrant)
            return self.model(self.last(inner))

    class Plain(Outer):
        def forward(self, x):
            return self.model(self.last(self.model(x)))

    outer = Outer()
    plain = run_checkpointed(outer, x, 0, use_reentrant=use_reentrant)
    outer.__class__ = Plain
    for a, b in zip(plain, run_checkpointed(outer, x, 0), strict=True):
        # float32 sums of a shared weight's gradients, which PyTorch adds in another order here;
        # other random bits would differ by 1e-2
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_checkpointing_is_wrapped_once(checkpoint):
    make_checkpoint_replay()
    wrapped = torch.utils.checkpoint.checkpoint
    make_checkpoint_replay()
    assert torch.utils.checkpoint.checkpoint is wrapped and wrapped.__wrapped__ is checkpoint


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_recomputation_that_cannot_be_replayed_is_refused(checkpoint, use_reentrant):
    """As by a function that was looked up before mmint wrapped it: no silently different bits."""
    make_checkpoint_replay()
    layer, _, x, grad = build('conv-3x3')
    out = checkpoint(layer, x.requires_grad_(), use_reentrant=use_reentrant)
    with pytest.raises(RuntimeError, match='recomputed during the backward pass by something'):
        out.backward(grad)


# Weights that change


@pytest.mark.parametrize('training', [True, False])
def test_a_weight_that_changed_without_a_trace_is_mapped_anew(training, monkeypatch):
    """Between iterations nobody announced, or in evaluation, as mmengine's EMA hook does it."""
    monkeypatch.setattr(current_run, 'has_iterations', False)
    layer, _, x, _ = build('linear')
    layer.train(training)
    with torch.no_grad():
        layer(x)
        layer.weight.data.zero_()
        layer.bias.data.zero_()
        assert not layer(x).any()


# Copies and files


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
def test_copies_and_files_keep_a_layer(case):
    layer, _, x, grad = build(case, bits=6)
    run(layer, x, grad)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for same in (torch.load(file, weights_only=False), copy.deepcopy(layer)):
        assert type(same) is type(layer) and same.bits == 6
        assert same.weight is not layer.weight
        with torch.no_grad():
            assert torch.equal(same.eval()(x), layer.eval()(x))
            same.weight.zero_()
            assert not torch.equal(same(x), layer(x))
    assert list(layer.state_dict()) == ['weight', 'bias'] and 'bits=6' in repr(layer)


# Bad input


@pytest.mark.parametrize(
    ('layer', 'shape', 'message'),
    [
        (IntLinear(10, 5), (2, 12), r'of shape \(2, 12\), 10 is accepted in dimension -1'),
        (IntConv2d(3, 8, 3), (1, 4, 8, 8), '3 is accepted in dimension -3'),
        (IntConv2d(4, 8, 3, groups=2), (1, 5, 8, 8), '4 is accepted in dimension -3'),
        (IntConvTranspose2d(3, 8, 3), (1, 4, 8, 8), '3 is accepted in dimension -3'),
        (IntConv2d(3, 8, 3), (8, 8), 'one of 3 or 4 dimensions is accepted'),
        (IntConv2d(3, 8, 3, dilation=2), (1, 3, 4, 9), 'at least 5 in dimension 2 is accepted'),
    ],
)
def test_an_input_of_another_shape_is_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(shape))


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
@pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
)
def test_an_input_that_is_not_float32_is_refused(case, dtype):
    layer, _, x, _ = build(case)
    layer.site.name = 'neck.lateral'
    with pytest.raises(
        TypeError, match=f'^neck.lateral was given an input of {dtype}, torch.float32 is accepted'
    ):
        layer(x.to(dtype))


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
def test_an_input_on_another_device_is_refused(case):
    layer, _, x, _ = build(case)
    layer.site.name = 'neck.lateral'
    with pytest.raises(ValueError, match='^neck.lateral was given an input on meta, one on cpu'):
        layer(x.to('meta'))


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('tensor', ['an input', 'a weight', 'a bias', 'a gradient'])
def test_a_non_finite_value_is_reported_with_layer_tensor_and_iteration(case, value, tensor):
    layer, _, x, grad = build(case)
    layer.site.name = 'neck.lateral'
    current_run.begin_iteration(41)
    target = {'an input': x, 'a weight': layer.weight, 'a bias': layer.bias, 'a gradient': grad}
    target[tensor].detach().view(-1)[-1] = value
    with pytest.raises(
        NonFiniteError, match=f'^neck.lateral was given {tensor} with .* in iteration 41, '
    ):
        run(layer, x, grad)


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
def test_a_non_finite_bias_is_reported_where_all_products_are_zero(case):
    layer, _, x, _ = build(case)
    layer.bias.detach()[0] = math.nan
    with pytest.raises(NonFiniteError):
        layer(torch.zeros_like(x))


@pytest.mark.parametrize('bits', [3, 17, 8.0, '8', True])
@pytest.mark.parametrize('layer', [IntConv2d, IntConvTranspose2d])
def test_bits_outside_4_to_16_are_refused(layer, bits):
    with pytest.raises(ValueError, match='bits=.* was given, integers from 4 to 16 are accepted'):
        layer(3, 3, 1, bits=bits)
    with pytest.raises(ValueError, match='bits=.* was given, integers from 4 to 16 are accepted'):
        IntLinear(3, 3, bits=bits)
