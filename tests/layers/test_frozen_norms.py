"""How a norm rounds that does not train: by whether the model around it does."""

import pytest
import torch
from torch import nn

from mmint.conversion import convert
from mmint.ops.run import current_run

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')

NORMS = {
    'batch': lambda: nn.BatchNorm2d(4),
    'group': lambda: nn.GroupNorm(2, 4),
    'layer': lambda: nn.LayerNorm([4, 6, 6]),
}


class Branch(nn.Module):
    """A part of a model whose forward pass is called from the model's own."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x) + x


@pytest.fixture(params=NORMS)
def model(request):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), Branch(NORMS[request.param]()))
    convert(model)
    return model


def twice(model):
    """What two calls give, in a loop that never names its iterations."""
    current_run.has_iterations = False
    x = torch.linspace(-1, 1, 2 * 4 * 6 * 6).view(2, 4, 6, 6).requires_grad_()
    return [model(x).detach() for _ in range(2)]


def test_a_model_in_evaluation_computes_the_same_with_gradients_as_without(model):
    model.eval()
    first, second = twice(model)
    assert torch.equal(first, second)
    with torch.no_grad():
        assert torch.equal(twice(model)[0], first)


def test_a_layer_of_its_own_does_so_too(model):
    first, second = twice(model[1].norm.eval())
    assert torch.equal(first, second)


@pytest.mark.parametrize('frozen', [lambda model: model[1], lambda model: model[1].norm])
def test_a_norm_that_is_frozen_in_a_model_that_trains_is_unbiased(frozen, model, monkeypatch):
    frozen(model).eval()
    model[0].eval()
    stochastic = []
    mapper = model[1].norm.mapper
    monkeypatch.setattr(
        model[1].norm, 'mapper', lambda: stochastic.append(mapper()) or stochastic[-1]
    )
    twice(model)
    assert [m.stochastic for m in stochastic] == [True, True]
    with torch.no_grad():
        twice(model)
    assert [m.stochastic for m in stochastic[2:]] == [False, False]
