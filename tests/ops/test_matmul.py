"""Products of two inputs, and their gradients."""

import math

import pytest
import torch
import torch.utils.checkpoint
from stock_code import SIGMAS, assert_close_at_16_bits, in_scope, mapper, ones_place

from mmint.ops.matmul import matmul

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


def product_bound(a, b, bits):
    """How far a product of mapped operands may be off: a unit each, and float32's rounding."""
    units = ones_place(a, bits), ones_place(b, bits)
    a, b = a.double().abs(), b.double().abs()
    widened = (a + units[0]) @ (b + units[1])
    return widened - a @ b + widened * 2**-24


PRODUCTS = {
    'matrices': ((5, 7), (7, 3)),
    'batch': ((2, 5, 7), (2, 7, 3)),
    'two batch dimensions': ((2, 3, 5, 7), (2, 3, 7, 4)),
    'broadcast': ((2, 1, 5, 7), (3, 7, 4)),
    'one matrix for a batch': ((5, 7), (2, 3, 7, 4)),
    'one row': ((2, 1, 7), (2, 7, 1)),
}


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('case', PRODUCTS)
@pytest.mark.parametrize('bits', [8, 16])
def test_a_product_and_its_gradients(case, transposed, bits):
    sizes = PRODUCTS[case]
    if transposed:  # views, as of keys
        leaves = [torch.randn(*s[:-2], s[-1], s[-2], requires_grad=True) for s in sizes]
        a, b = (x.transpose(-2, -1) for x in leaves)
    else:
        leaves = a, b = [torch.randn(s, requires_grad=True) for s in sizes]
    out = matmul(a, b, mapper(bits))
    exact = a.detach().double() @ b.detach().double()
    assert out.shape == exact.shape and out.dtype == torch.float32
    assert ((out - exact).abs() <= product_bound(a.detach(), b.detach(), bits)).all()
    grad = torch.randn(out.shape)
    out.backward(grad)
    wide = [x.detach().double().requires_grad_() for x in leaves]
    views = [x.transpose(-2, -1) if transposed else x for x in wide]
    (views[0] @ views[1]).backward(grad.double())
    for leaf, expected in zip(leaves, wide, strict=True):
        unit = ones_place(grad, bits)
        other = leaves[1] if leaf is leaves[0] else leaves[0]
        terms = grad.numel() // min(grad.shape[-2:]) + max(grad.shape)
        other = other.detach()
        most = float(grad.abs().max()) + unit, float(other.abs().max()) + ones_place(other, bits)
        bound = terms * (unit * most[1] + ones_place(other, bits) * most[0])
        assert (leaf.grad - expected.grad).abs().max() <= bound


def test_a_product_and_its_gradients_are_unbiased_at_8_bits():
    a, b, grad = torch.randn(1, 5, 6), torch.randn(1, 6, 4), torch.randn(1, 5, 4)
    exact = [x.double() for x in (a @ b, grad @ b.mT, a.mT @ grad)]
    draws = []
    for call in range(600):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        out = matmul(x, y, mapper(call=call))
        out.backward(grad)
        draws.append([t.detach().double() for t in (out, x.grad, y.grad)])
    for samples, expected in zip(zip(*draws, strict=True), exact, strict=True):
        samples = torch.stack(samples)
        error = (samples.mean(0) - expected).abs()
        assert (error < SIGMAS * samples.std(0) / math.sqrt(len(samples)) + 1e-5).all()


EQUATIONS = {
    'bqc,bchw->bqhw': ((2, 3, 5), (2, 5, 4, 6)),  # mask heads
    'lbqc,bchw->lbqhw': ((3, 2, 4, 5), (2, 5, 3, 4)),
    'bhwc,hkc->bhwk': ((2, 3, 4, 5), (3, 6, 5)),  # relative positions
    'nc, mc -> nm': ((4, 5), (6, 5)),
    'bcn,bnk->bck': ((2, 3, 4), (2, 4, 5)),
    'bnhw,bchw->bnc': ((2, 3, 4, 5), (2, 6, 4, 5)),
}


@pytest.mark.parametrize('equation', EQUATIONS)
def test_einsum_of_two_operands(equation, calls):
    a, b = (torch.randn(size, requires_grad=True) for size in EQUATIONS[equation])
    out = in_scope(torch.einsum, equation, a, b, bits=16)
    assert calls['matmul'] == 1
    expected = torch.einsum(equation, a, b)
    torch.testing.assert_close(out, expected, atol=1e-2, rtol=0)
    grad = torch.randn_like(out)
    actual = torch.autograd.grad(out, (a, b), grad)
    for one, other in zip(actual, torch.autograd.grad(expected, (a, b), grad), strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=0)


WRITTEN = {
    'mm': (torch.mm, (4, 5), (5, 3)),
    'x.mm': (lambda a, b: a.mm(b), (4, 5), (5, 3)),
    'matrix and vector': (torch.matmul, (4, 5), (5,)),
    'matrices and vector': (torch.matmul, (2, 4, 5), (5,)),
    'vector and matrices': (torch.matmul, (4,), (2, 4, 5)),
    'addmm': (torch.addmm, (4, 6), (4, 5), (5, 6)),
    'addmm of a bias': (torch.addmm, (6,), (4, 5), (5, 6)),
    'x.addmm': (lambda x, a, b: x.addmm(a, b), (4, 6), (4, 5), (5, 6)),
    'baddbmm': (torch.baddbmm, (2, 4, 6), (2, 4, 5), (2, 5, 6)),
}


@pytest.mark.parametrize('case', WRITTEN)
def test_every_way_to_write_a_product(case, calls):
    function, *sizes = WRITTEN[case]
    assert_close_at_16_bits(function, *(torch.randn(size) / 2 for size in sizes))
    assert calls['matmul'] == 3


def test_a_mask_stays_in_float_where_it_is_added_to_a_product(calls):
    mask = torch.zeros(4, 6).masked_fill(torch.ones(4, 6).triu(2) > 0, -math.inf)
    a, b = torch.randn(2, 4, 5), torch.randn(2, 5, 6)
    out = in_scope(torch.baddbmm, mask, a, b)
    assert torch.equal(out.isinf(), (mask + out).isinf()) and calls == {'matmul': 1}
