"""register_layer(): layers of the user's own become integer layers."""

import pytest
import torch
from torch import nn

import mmint
from mmint.conversion import registered
from mmint.layers import IntConv2d, IntLinear


class ScaledLinear(nn.Linear):
    """A layer that computes something of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class IntScaledLinear(IntLinear):
    """Its integer counterpart."""

    @classmethod
    def check(cls, module):
        if module.bias is not None:
            raise ValueError('no bias is accepted')

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.fixture(autouse=True)
def table(monkeypatch):
    """What a test registers is forgotten."""
    monkeypatch.setattr(registered, '_integer_layers', dict(registered._integer_layers))


@pytest.mark.parametrize('stock', [ScaledLinear, f'{__name__}.ScaledLinear'])
def test_a_registered_layer_is_converted_by_class_or_name(stock):
    model = nn.Sequential(ScaledLinear(4, 2, bias=False))
    mmint.convert(model)
    assert type(model[0]) is ScaledLinear
    model = nn.Sequential(ScaledLinear(4, 2, bias=False))
    weight = model[0].weight
    mmint.register_layer(stock, IntScaledLinear)
    report = mmint.convert(model, bits=6)
    assert isinstance(model[0], IntScaledLinear) and isinstance(model[0], ScaledLinear)
    assert model[0].weight is weight and model[0].bits == 6
    assert [(entry.before, entry.after, entry.bits) for entry in report] == [
        ('ScaledLinear', 'IntScaledLinear', 6)
    ]
    assert model(torch.ones(1, 4)).shape == (1, 2)


def test_a_registered_layer_may_refuse_a_module():
    mmint.register_layer(ScaledLinear, IntScaledLinear)
    model = nn.Sequential(nn.Linear(4, 4), ScaledLinear(4, 2))
    with pytest.raises(ValueError, match='no bias is accepted'):
        mmint.convert(model)
    assert [type(module) for module in model] == [nn.Linear, ScaledLinear]


def test_the_last_registration_counts():
    mmint.register_layer(ScaledLinear, IntScaledLinear)
    mmint.register_layer(ScaledLinear, IntLinear)
    model = nn.Sequential(ScaledLinear(4, 2))
    mmint.convert(model)
    assert isinstance(model[0], IntLinear) and not isinstance(model[0], IntScaledLinear)


@pytest.mark.parametrize(
    'stock, integer, error, message',
    [
        (3, IntConv2d, TypeError, r'stock=3, a subclass of torch.nn.Module or its qualified name'),
        (dict, IntConv2d, TypeError, r"stock=<class 'dict'>, a subclass of torch.nn.Module"),
        (nn.Conv2d(1, 1, 1), IntConv2d, TypeError, r'stock=Conv2d\(.*: pass the layer.s class$'),
        ('Conv2d', IntConv2d, ValueError, r"stock='Conv2d', a qualified name is accepted: write"),
        ('a..b', IntConv2d, ValueError, r"stock='a..b', a qualified name is accepted"),
        (nn.Conv2d, 'IntConv2d', TypeError, r"integer='IntConv2d', a subclass of torch.nn.Module"),
        (nn.Conv2d, int, TypeError, r"integer=<class 'int'>, a subclass of torch.nn.Module"),
    ],
)
def test_what_is_no_layer_is_refused(stock, integer, error, message):
    before = dict(registered._integer_layers)
    with pytest.raises(error, match=message):
        mmint.register_layer(stock, integer)
    assert registered._integer_layers == before
