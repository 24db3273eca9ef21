"""A converted model under `torch.compile`: float parts are compiled, integer ones run as ever."""

import copy

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import mmint
from mmint.conversion import convert
from mmint.layers import IntConv2d
from mmint.optim import IntSGD

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


@pytest.fixture(autouse=True)
def forgotten():
    """Nothing compiled before is used."""
    torch.compiler.reset()
    torch.manual_seed(0)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)).relu() + x


def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), Residual(), nn.GroupNorm(2, 4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 5),
    )  # fmt: skip


def compiled(module):
    return torch.compile(module, backend='eager')


def steps(model, run):
    """Losses and weights of three training steps of ``model``, called as ``run``."""
    optimizer = IntSGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for i in range(3):
        mmint.begin_iteration(i, seed=1)
        x = torch.linspace(-1, 1, 2 * 3 * 12 * 12).view(2, 3, 12, 12).roll(i)
        loss = run(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, *model.state_dict().values()]


def test_pooling_in_evaluation():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)).eval()
    convert(model)
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        assert torch.equal(compiled(model)(x), model(x))


def test_training_is_that_without_to_the_bit():
    eager = network()
    convert(eager)
    twin = copy.deepcopy(eager)
    expected = steps(eager, eager)
    for one, other in zip(steps(twin, compiled(twin)), expected, strict=True):
        assert torch.equal(one, other)


def test_layers_that_were_not_converted_as_parts_of_a_model():
    """No scope is around them."""

    class Float(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = IntConv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)

        def forward(self, x):
            return self.pool(self.conv(x * 2)).flatten(1)

    eager = Float()
    twin = copy.deepcopy(eager)
    expected = steps(eager, eager)
    for one, other in zip(steps(twin, compiled(twin)), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings('error:Dynamo')
def test_a_step_that_is_compiled_as_a_whole():
    """Its backward pass is not traced either, or Dynamo would warn of kernels it does not know."""
    results = []
    for run in (lambda step: step, compiled):
        torch.manual_seed(0)
        model = network()
        convert(model)
        mmint.begin_iteration(0)
        optimizer = IntSGD(model.parameters(), lr=0.1)

        def step(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        loss = run(step)(torch.randn(2, 3, 12, 12))
        results.append([loss.detach(), *model.state_dict().values()])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_no_mode_sees_what_integer_operations_do():
    """Or it would be entered by each tensor that they touch."""
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    model = network()[:5]
    convert(model)
    x = torch.randn(2, 3, 12, 12, requires_grad=True)
    with Watch():
        model[0](x)
        model[4](torch.randn(2, 4, 5, 5))
    assert [f.__name__ for f in seen] == ['randn']
