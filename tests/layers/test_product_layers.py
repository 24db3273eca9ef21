"""Convolutions and linear layers: as exact as their bits promise, unbiased, never wrapped."""

import re

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from layer_cases import (
    CASES,
    bias_units,
    build,
    cases,
    conv,
    linear,
    mapped,
    products,
    run,
    transposed,
    unit,
    units,
    weight_units,
)

from mmint.layers import IntConv2d, IntLinear
from mmint.numerics import RandomBits, Role
from mmint.ops.run import current_run

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


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
@pytest.mark.parametrize('case', ['conv-stride', 'conv3d-stride', 'transposed-stride', 'linear'])
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

    groups = getattr(layer, 'groups', 1)
    of_x, of_weights = units(x, 8, groups, 1), weight_units(layer)
    roles = Role.WEIGHT, Role.WEIGHT if groups > 1 else Role.WEIGHT_OF_GRADIENT
    mapped_x = mapped(x, 8, random(Role.INPUT), of_x)
    mapped_grad = mapped(grad, 8, random(Role.GRADIENT), units(grad, 8, groups, 1))
    want, of_gradient = (
        list(products(twin, mapped_x, mapped(layer.weight.detach(), 8, random(r), u), mapped_grad))
        for r, u in zip(roles, of_weights, strict=True)
    )
    want[1] = of_gradient[1]
    if layer.bias is not None:
        bias, step = layer.bias.detach(), bias_units(layer, of_x, of_weights[0])
        fine = mapped(bias, 8, random(Role.BIAS), step)
        want[0] = want[0] + fine.view([-1, *[1] * (want[0].dim() - 2)])
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
