"""Integer operations have first derivatives, as often as one likes, and no second ones."""

import pytest
import torch
from torch import nn

from mmint.conversion import convert

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 1, 1)
        )

    def forward(self, x):
        return self.branch(x) + x


def converted():
    torch.manual_seed(0)
    model = nn.Sequential(Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    convert(model)
    return model


def test_the_same_graph_may_be_gone_through_twice():
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    out = converted()(x).square().sum()
    first = torch.autograd.grad(out, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(out, x)[0], first)


def test_a_graph_that_was_freed_is_refused_in_pytorch_s_words():
    out = converted()(torch.randn(2, 4, 6, 6, requires_grad=True)).square().sum()
    out.backward()
    with pytest.raises(RuntimeError, match='^Trying to backward through the graph a second time'):
        out.backward()


@pytest.mark.parametrize('loss', [lambda out: out.sum(), lambda out: out.square().sum()])
def test_a_gradient_that_is_to_be_differentiated_is_refused(loss):
    """With a gradient that no parameter had a part in, too."""
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    out = loss(converted()(x))
    with pytest.raises(RuntimeError, match='^3 was given a backward pass with create_graph=True'):
        torch.autograd.grad(out, x, create_graph=True)


@pytest.mark.parametrize('layer', [nn.ReLU(), nn.MaxPool2d(2)])
def test_so_it_is_where_no_module_is_named(layer):
    model = nn.Sequential(layer)
    convert(model)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    with pytest.raises(RuntimeError, match='^an integer operation was given a backward pass'):
        torch.autograd.grad(model(x).sum(), x, create_graph=True)
