"""Activation checkpointing gives the bits of none."""

import pytest
import torch
import torch.utils.checkpoint
from layer_cases import build
from torch import nn

from mmint.layers import IntConv2d, IntConv3d, IntConvTranspose2d
from mmint.ops.checkpoint import make_checkpoint_replay
from mmint.ops.run import current_run

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


@pytest.fixture
def checkpoint(monkeypatch):
    """PyTorch's function as it is without mmint; what a test does to it is undone."""
    stock = torch.utils.checkpoint.checkpoint
    stock = getattr(stock, '__wrapped__', stock)
    monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', stock)
    return stock


class Twice(nn.Module):
    """Four layers, one of them called twice."""

    def __init__(self):
        super().__init__()
        self.first = IntConv2d(3, 4, 3, padding=1)
        self.second = IntConv2d(4, 4, 3, padding=1)
        self.third = IntConvTranspose2d(4, 2, 2, stride=2)
        self.volume = IntConv3d(1, 1, 3, padding=1)

    def forward(self, x):
        x = self.second(self.first(x).relu())
        x = self.volume(self.second(x.relu())[:, None]).squeeze(1)
        return self.third(x)


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


def assert_alike(actual, expected, use_reentrant):
    """Outputs, input gradient and parameters' gradients are the same, to the bit.

    Re-entrant segments are backward passes of their own, between which PyTorch adds the gradients
    of a shared parameter, in float. That is within the rounding of their integer sums, of 16 bits;
    other random bits of the layers would differ by 1e-2.
    """
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        exact = i < 3 or not use_reentrant
        most = 0 if exact else 16 * 2.0**-15 * float(b.abs().max())
        torch.testing.assert_close(a, b, rtol=0, atol=most)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('use_reentrant', [True, False])
def test_checkpointing_gives_the_bits_of_no_checkpointing(checkpoint, use_reentrant, training):
    make_checkpoint_replay()
    torch.manual_seed(0)
    model, x = Twice().train(training), torch.randn(2, 3, 6, 6)
    for iteration in range(2):
        plain = run_checkpointed(model, x, iteration)
        segments = run_checkpointed(model, x, iteration, use_reentrant=use_reentrant)
        assert_alike(segments, plain, use_reentrant)


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
    nested = run_checkpointed(outer, x, 0, use_reentrant=use_reentrant)
    outer.__class__ = Plain
    assert_alike(nested, run_checkpointed(outer, x, 0), use_reentrant)


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
