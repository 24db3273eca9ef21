"""Reversible blocks, which compute their input from their output, draw again what they drew."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import Function

import mmint
from mmint.conversion import convert, register_bits, register_recomputation, registered, restore


class Reversible(Function):
    """Keeps the output of blocks, in place of all that they compute."""

    @staticmethod
    def forward(ctx, x, blocks):
        ctx.blocks = blocks
        x = x.chunk(2, 1)
        for block in blocks:
            x = block(*x)
        ctx.save_for_backward(*x)
        return torch.cat(x, 1)

    @staticmethod
    def backward(ctx, grad):
        x, grads = ctx.saved_tensors, grad.chunk(2, 1)
        for block in reversed(ctx.blocks):
            x, grads = block.backward_pass(*x, *grads)
        return torch.cat(grads, 1), None


class Block(nn.Module):
    """``(a, b)`` becomes ``(b, a + f(b))``."""

    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, a, b):
        return b, a + self.f(b)

    def backward_pass(self, b, c, grad_b, grad_c):
        with torch.enable_grad():
            b = b.detach().requires_grad_()
            f = self.f(b)
            f.backward(grad_c)
        return (c - f.detach(), b.detach()), (grad_c, grad_b + b.grad)


class Net(nn.Module):
    """Reversible, or not, with the same results."""

    def __init__(self, reversible=True):
        super().__init__()
        self.blocks, self.reversible = nn.ModuleList([Block(), Block(), Block()]), reversible

    def forward(self, x):
        if self.reversible:
            return Reversible.apply(x, self.blocks)
        x = x.chunk(2, 1)
        for block in self.blocks:
            x = block(*x)
        return torch.cat(x, 1)


@pytest.fixture(autouse=True)
def reversible(monkeypatch):
    """The additions of blocks, which subtractions undo, are not to round."""
    monkeypatch.setattr(registered, '_least_bits', {})
    monkeypatch.setattr(registered, '_recomputing', {})
    register_bits(Block, None)
    register_recomputation(f'{__name__}.Block', 'backward_pass')


def step(model, x, iteration=0):
    mmint.begin_iteration(iteration, seed=3)
    x = x.clone().requires_grad_()
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return [out.detach(), x.grad, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize('duplicate', [lambda m: m, copy.deepcopy])
def test_they_give_what_blocks_give_that_keep_everything(backend, fresh_run, duplicate):
    model, x = Net(), torch.randn(2, 8, 6, 6)
    plain = copy.deepcopy(model)
    plain.reversible = False
    convert(model)
    convert(plain)
    model = duplicate(model)
    for iteration in range(2):
        pairs = zip(step(model, x, iteration), step(plain, x, iteration), strict=True)
        for number, (a, b) in enumerate(pairs):
            # Float rounds `a + f - f`, so that few of the mapped inputs differ by a unit; other
            # random bits would change most.
            assert torch.equal(a, b) if number == 0 else (a - b).norm() < 2e-3 * b.norm() + 1e-5


def test_two_forward_passes_in_an_iteration_are_refused(fresh_run):
    model, x = Net(), torch.randn(2, 8, 6, 6)
    convert(model)
    mmint.begin_iteration(0)
    model(x)
    out = model(x.requires_grad_())
    with pytest.raises(RuntimeError, match='of which one in training in each iteration is accept'):
        out.sum().backward()


def test_evaluation_may_come_between(fresh_run):
    model, x = Net(), torch.randn(2, 8, 6, 6)
    convert(model)
    want = step(model, x)
    mmint.begin_iteration(0, seed=3)
    out = model(x.requires_grad_())
    with torch.no_grad():
        model.eval()(x)
        model.train()
    out.square().sum().backward()
    assert torch.equal(x.grad, want[1])


def test_restored_they_compute_in_float_again(fresh_run):
    model, x = Net(), torch.randn(2, 8, 6, 6)
    stock = copy.deepcopy(model)
    convert(model)
    restore(model)
    assert [sorted(vars(m)) for m in model.modules()] == [sorted(vars(m)) for m in stock.modules()]
    assert all(torch.equal(a, b) for a, b in zip(step(model, x), step(stock, x), strict=True))
