"""Sums of two tensors: both mapped from one draw, aligned, added."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.utils.checkpoint
from comparison import BITS
from stock_code import (
    SIGMAS,
    Residual,
    assert_all_same,
    assert_same,
    convert_,
    in_scope,
    mapper,
    ones_place,
    trained,
)
from torch import nn

from mmint.backends import NonFiniteError, reference
from mmint.numerics import Role
from mmint.ops.addition import add
from mmint.ops.checkpoint import make_checkpoint_replay
from mmint.ops.mapper import SUM_BITS, exponents_of_sum
from mmint.ops.scope import current_place

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


def float_of(value):
    """The float32 nearest to a fraction, ties to even (a double rounds twice)."""
    if value == 0:
        return 0.0
    exponent = math.floor(math.log2(abs(value)))
    unit = Fraction(2) ** (exponent - 23)
    while abs(value) >= unit * 2**24:
        unit *= 2
    return float(round(value / unit) * unit)  # Python rounds fractions to even


def mapped(values, bits, draws):
    """Paper section 3.1 with fractions: mantissas and the exponent they share."""
    top = max(abs(Fraction(v)) for v in values)
    if not top:
        return [0] * len(values), 0
    exponent = math.floor(math.log2(top)) + 2 - bits
    if top / Fraction(2) ** exponent > 2 ** (bits - 1) - 1:
        exponent += 1
    mantissas = []
    for value, drawn in zip(values, draws, strict=True):
        fine = math.trunc(Fraction(value) / Fraction(2) ** exponent * 2**16)
        mantissas.append(fine + drawn >> 16)
    return mantissas, exponent


def exact_sum(x, y, bits, draws):
    """The definition: both mapped, from one draw; added, or the higher first if far apart."""
    a, low = mapped(x.tolist(), bits, draws)
    b, high = mapped(y.tolist(), bits, [65535 - r for r in draws])
    if any(a) and any(b) and abs(high - low) > 40:
        first, second = (a, b) if low > high else (b, a)
        second[:] = [0 if i else j for i, j in zip(first, second, strict=True)]
    sums = [i * Fraction(2) ** low + j * Fraction(2) ** high for i, j in zip(a, b, strict=True)]
    return torch.tensor([float_of(s) for s in sums])


@pytest.mark.parametrize('bits', [4, 8, 16])
@pytest.mark.parametrize('power', [0, -3, 9, -24, -40, -41, 60])
def test_a_sum_is_two_mappings_aligned_and_added(backend, bits, power):
    x, y = torch.randn(65), torch.randn(65) * 2.0**power
    draws = BITS.draw(65).tolist()
    assert_same(backend.add(x, y, bits, BITS), exact_sum(x, y, bits, draws))


@pytest.mark.parametrize('bits', [4, 8, 16])
def test_operands_may_be_any_distance_apart(backend, bits):
    """Also where most mantissas of the higher one are 0 or few units."""
    small = 2.0 ** -torch.randint(0, 2 * bits, (300,))
    for power in range(-46, 47):
        x, y = torch.randn(300), torch.randn(300) * 2.0**power
        x, y = (x * small, y) if power < 0 else (x, y * small)
        for random in (BITS, None):
            sums = backend.add(x, y, bits, random)
            assert_same(sums, reference.add(x, y, bits, random))


def test_what_a_mask_of_huge_numbers_does_not_hide_stays(backend):
    scores = torch.randn(65)
    hidden = torch.arange(65) % 3 == 0
    mask = torch.zeros(65).masked_fill(hidden, -1e30)
    sums = backend.add(scores, mask, 16, BITS)
    alone = backend.dequantize(*backend.quantize(scores, 16, BITS)[:2])
    assert_same(sums[~hidden], alone[~hidden])
    assert (sums[hidden] < -9e29).all()


def test_the_errors_of_halves_cancel(backend):
    """One of the two operands is rounded up and the other down, whatever is drawn."""
    x = torch.cat([torch.tensor([64.0]), torch.arange(-40, 40) + 0.5])
    assert_same(backend.add(x, x, 8, BITS), x + x)
    assert not torch.equal(backend.dequantize(*backend.quantize(x, 8, BITS)[:2]), x)


@pytest.mark.parametrize('bits', [4, 8])
def test_a_sum_is_unbiased(backend, bits):
    x, y = torch.randn(40), torch.randn(40) * 0.3
    draws = 2500
    sums = backend.add(x.repeat(draws, 1), y.repeat(draws, 1), bits, BITS)
    error = (sums.double() - (x.double() + y.double())).mean(0).abs()
    # A rounding deviates by at most half its unit, and float32 resolves the rest.
    deviation = (ones_place(x, bits) + ones_place(y, bits)) / 2
    assert (error < SIGMAS * deviation / math.sqrt(draws) + 2**-15 * deviation).all()


@pytest.mark.parametrize(
    'size, exponents',
    [
        ((2, 64, 7, 7), (2, 64, 1, 1)),  # planes of images
        ((2, 64, 4, 4), (2, 1, 1, 1)),  # too small: images
        ((2, 197, 128), (2, 197, 1)),  # tokens
        ((197, 128), (197, 1)),
        ((2, 8, 16, 3), (2, 8, 1, 1)),
        ((4, 9), ()),  # too small: all
        ((1, 500), ()),
        ((500,), ()),
        ((0, 3, 8, 8), ()),
    ],
)
def test_planes_and_rows_of_a_sum_share_exponents(size, exponents):
    assert exponents_of_sum(torch.Size(size)) == exponents


def test_a_small_row_of_a_sum_keeps_its_bits():
    x, y = torch.randn(2, 3, 40, 64)
    x[:, 7] *= 1e-4
    y[:, 7] *= 1e-4
    one_a_tensor = replace(mapper(), exponents='tensor')
    error, usual = (
        ((m.add(x, y, Role.INPUT) - (x + y))[:, 7].abs().max() / (x + y)[:, 7].abs().max()).item()
        for m in (mapper(), one_a_tensor)
    )
    assert error < 2**-12 and usual > 0.1


def test_a_sum_in_place_replaces_its_first_operand(backend):
    x, y = torch.randn(3, 5, 7).transpose(0, 2), torch.randn(7, 5, 3)
    expected = backend.add(x, y, 8, BITS)
    assert backend.add(x, y, 8, BITS, inplace=True) is x
    assert_same(x, expected)


def test_sums_of_nothing_and_of_zeros(backend):
    assert backend.add(torch.empty(0, 4), torch.empty(0, 4), 8, BITS).shape == (0, 4)
    y = torch.tensor([1.0, -0.5])
    assert_same(backend.add(torch.zeros(2), y, 8, BITS), y)


@pytest.mark.parametrize('value', [float('inf'), float('nan')])
def test_an_infinite_operand_is_an_error_that_names_the_module(value):
    model = convert_(nn.Sequential(Residual()))
    x = torch.randn(1, 4, 5, 5)
    model[0].offset = torch.full_like(x, value)
    with pytest.raises(NonFiniteError, match='^0 was given an input .* iteration 0'):
        model(x)
    assert current_place() is None


def test_the_gradient_of_a_sum_is_that_of_its_operands():
    x, y = (torch.randn(4, 6, requires_grad=True) for _ in range(2))
    grad = torch.randn(4, 6)
    add(x, y, mapper()).backward(grad)
    assert_same(x.grad, grad)
    assert_same(y.grad, grad)


BROADCASTS = {
    'position embedding': ((2, 7, 5), (1, 7, 5)),
    'without the batch': ((2, 7, 5), (7, 5)),
    'bias': ((2, 7, 5), (5,)),
    'first operand': ((5,), (2, 7, 5)),
    'channels of images': ((2, 3, 6, 5), (1, 3, 1, 1)),
    'places of images': ((2, 3, 6, 5), (2, 1, 6, 5)),
    'rows and columns': ((2, 6, 1, 5), (1, 6, 7, 1)),
}


@pytest.mark.parametrize('case', BROADCASTS)
def test_what_is_broadcast_is_added_as_if_it_were_repeated(case):
    x, y = (torch.randn(size) for size in BROADCASTS[case])
    shape = torch.broadcast_shapes(x.shape, y.shape)
    repeated = add(x.expand(shape).contiguous(), y.expand(shape).contiguous(), mapper())
    assert_same(add(x, y, mapper()), repeated)


@pytest.mark.parametrize('case', BROADCASTS)
def test_the_gradient_of_what_is_broadcast_is_an_exact_sum_of_mantissas(case, backend):
    x, y = (torch.randn(size, requires_grad=True) for size in BROADCASTS[case])
    out = add(x, y, mapper())
    grad = torch.randn(out.shape)
    out.backward(grad)
    mantissa, exponent, _ = backend.quantize(grad, SUM_BITS, mapper().random(Role.GRADIENT))
    for leaf in (x, y):
        exact = mantissa.double().sum_to_size(leaf.shape) * 2.0 ** int(exponent)
        assert_same(leaf.grad, grad if leaf.shape == grad.shape else exact.float())


BROADCAST_IN_INTEGERS = {
    'parameter': lambda x, y: (x, nn.Parameter(y)),
    'view of a parameter': lambda x, y: (x, nn.Parameter(y.flatten()).view(y.shape)),
    'computed': lambda x, y: (x, nn.Parameter(y) * 1),
}


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('case', BROADCAST_IN_INTEGERS)
def test_what_is_learnt_is_broadcast_in_integers(case, training, calls):
    """What is computed of it only where it has a gradient, as masks have none."""
    with torch.set_grad_enabled(training):
        x, y = BROADCAST_IN_INTEGERS[case](torch.randn(2, 7, 5), torch.randn(1, 7, 5))
        in_scope(lambda x, y: x + y, x, y)
        in_scope(lambda x, y: x.add_(y), x, y)
    assert calls['add'] == (2 if training or case != 'computed' else 0)


class Embedded(nn.Module):
    """Adds to a batch what a layer makes of a table."""

    def __init__(self):
        super().__init__()
        self.table, self.fc = nn.Parameter(torch.randn(7, 5)), nn.Linear(5, 5)

    def forward(self, x):
        return self.fc(x + self.fc(self.table)) + self.table


@pytest.mark.parametrize('reentrant', [True, False])
def test_both_runs_of_a_checkpointed_function_broadcast_alike(reentrant, monkeypatch):
    stock = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', getattr(stock, '__wrapped__', stock))
    make_checkpoint_replay()
    outs = []

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Embedded()
            self.inner.fc.register_forward_hook(lambda _, args, out: outs.append(out.detach()))

        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=reentrant)

    trained(convert_(Checkpointed()), torch.randn(2, 7, 5))
    first, second = outs[:2], outs[2:]  # the second may end early
    assert_all_same(second, first[: len(second)])
