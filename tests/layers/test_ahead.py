"""Weights mapped ahead are those that layers would map themselves."""

import pytest
import torch
from torch import nn

import mmint
from mmint import backends
from mmint.backends import reference
from mmint.layers import ahead


class Net(nn.Module):
    """Every kind of weight; a parametrised one, which is computed anew at each use."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(6, 4, 2, 2)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.linear = nn.Linear(64, 3)

    def forward(self, x, short):
        x = self.conv(x)
        x = self.up(x if short else self.grouped(x))
        return self.linear(self.normed(x)[..., ::2, ::2].flatten(1))


def trained():
    """Outputs and parameters of a run in which weights are used in all sorts of ways."""
    torch.manual_seed(0)
    model = Net()
    mmint.convert(model)
    optimizer = mmint.IntSGD(model.parameters(), 0.1)
    seen = []
    for iteration in range(7):
        mmint.begin_iteration(iteration)
        x = torch.randn(2, 4, 4, 4)
        if iteration == 3:
            with torch.no_grad():
                seen.append(model(x, False))
        if iteration == 4:
            seen.append(model.conv(x).detach())
            model.up.weight.data.mul_(2)
            torch.autograd.graph.increment_version(model.up.weight)
        out = model(x, short=iteration == 5)
        optimizer.zero_grad()
        out.square().sum().backward()
        optimizer.step()
        seen += [out.detach(), *(p.detach().clone() for p in model.parameters())]
    return seen


@pytest.fixture
def batches(monkeypatch, fresh_run):
    """How many tensors were mapped at once, by a reference that does so."""
    monkeypatch.setattr(backends, 'wish', 'reference')
    ahead._layers.clear()  # models of other tests may live on
    sizes = []

    def quantize_all(mappings):
        sizes.append(len(mappings))
        return [reference.quantize(*m[:3], None, m.exponents) for m in mappings]

    monkeypatch.setattr(reference, 'quantize_all', quantize_all)
    return sizes


def test_they_have_the_same_bits(batches, monkeypatch):
    actual = trained()
    assert max(batches) == 2 + 1 + 2 + 2  # all but that which is computed
    monkeypatch.setattr(reference, 'quantize_all', None)
    for a, b in zip(actual, trained(), strict=True):
        assert torch.equal(a, b)


def test_they_are_those_that_the_iteration_before_used(batches):
    model = nn.ModuleList([nn.Linear(3, 3) for _ in range(4)])
    mmint.convert(model)
    used = [(0, 1), (0, 1, 2), (3,), (3, 0)]
    for iteration, layers in enumerate(used):
        mmint.begin_iteration(iteration)
        for number in layers:
            model[number](torch.randn(2, 3))
    assert batches == [2, 2, 4, 2, 6, 2, 2, 2]
