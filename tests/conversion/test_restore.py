"""restore(): the float model of a converted one, for what takes only float ones."""

import copy
import pickle

import pytest
import torch
from torch import nn

import mmint
from mmint.layers import IntConv2d


class OwnLinear(nn.Linear):
    """A subclass that computes the same."""


class Block(nn.Module):
    """Every kind of module: layers, exact ones, and additions of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.relu, self.pool = nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.linear, self.scale = OwnLinear(3, 4), nn.Conv1d(1, 1, 1)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)) + x)
        return self.scale(self.linear(self.pool(x).flatten(1))[:, None])


X = torch.linspace(-1, 1, 2 * 3 * 6 * 6).view(2, 3, 6, 6)


def state(model):
    """Of each module its class and the names of what it holds."""
    return {name: (type(m), sorted(vars(m))) for name, m in model.named_modules()}


@pytest.fixture
def pair():
    """A float model, and the same converted and restored."""
    model = Block().eval()
    other = copy.deepcopy(model)
    mmint.convert(other)
    assert not torch.equal(other(X), model(X))
    assert mmint.restore(other) is other
    return model, other


def test_it_is_the_stock_model_again(pair):
    stock, restored = pair
    assert state(restored) == state(stock)
    assert torch.equal(restored(X), stock(X))
    assert list(restored.state_dict()) == list(stock.state_dict())


def test_it_keeps_parameters_and_values():
    model = Block()
    parameters = dict(model.named_parameters())
    mmint.convert(model)
    model(X).sum().backward()
    mmint.restore(model)
    assert all(p is parameters[name] and p.grad is not None for name, p in model.named_parameters())


EXPORTS = {
    'trace': lambda model: torch.jit.trace(model, X),
    'script': torch.jit.script,
    'fx': torch.fx.symbolic_trace,
    'export': lambda model: torch.export.export(model, (X,)).module(),
}


@pytest.mark.filterwarnings('ignore:.torch.jit:FutureWarning')
@pytest.mark.parametrize('how', EXPORTS)
def test_it_is_exported(pair, how):
    stock, restored = pair
    with torch.no_grad():
        assert torch.allclose(EXPORTS[how](restored)(X), stock(X), atol=1e-6)


@pytest.mark.filterwarnings('ignore:.torch.jit:FutureWarning')
@pytest.mark.parametrize('how', EXPORTS)
@pytest.mark.parametrize('make', [Block, lambda: nn.Conv2d(3, 3, 1)], ids=['model', 'layer'])
def test_a_converted_model_is_not_and_one_sentence_names_it(make, how):
    model = make().eval()
    mmint.convert(model)
    with pytest.raises((RuntimeError, AttributeError)) as error:
        EXPORTS[how](model)
    message = str(error.value)
    assert message.startswith(('the model has integer operations', 'conv has integer operations'))
    assert 'export a copy, mmint.restore(copy.deepcopy(model))' in message and '\n' not in message


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_converted_model_is_restored_too(duplicate):
    model = Block()
    before = state(model)
    mmint.convert(model)
    other = duplicate(model)
    assert state(mmint.restore(other)) == before
    assert type(model.conv) is IntConv2d


def test_a_model_is_converted_again():
    model = Block().eval()
    mmint.convert(model)
    want = model(X)
    mmint.restore(model)
    mmint.convert(model)
    assert torch.equal(model(X), want)
    mmint.restore(model)
    mmint.convert(model, bits=4)
    assert model.conv.bits == 4


def test_layers_built_as_integer_ones_and_forwards_of_an_instance():
    model = nn.Sequential(IntConv2d(3, 2, 1), Block())
    own = model[1].forward = model[1].forward
    mmint.convert(model)
    mmint.restore(model)
    assert type(model[0]) is nn.Conv2d and vars(model[0]).keys() == vars(nn.Conv2d(3, 2, 1)).keys()
    assert model[1].forward is own


def test_classes_of_other_packages_come_back():
    pytest.importorskip('mmengine')
    wrappers = pytest.importorskip('mmcv.cnn.bricks.wrappers')
    model = nn.Sequential(wrappers.Conv2d(3, 3, 1))
    mmint.convert(model)
    assert isinstance(model[0], IntConv2d)
    assert type(mmint.restore(model)[0]) is wrappers.Conv2d
