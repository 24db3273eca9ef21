"""The bits of what a module computes itself: patterns, and what its class asks for."""

import re

import pytest
import torch
from torch import nn

import mmint
from mmint.conversion import convert, format_report, registered
from mmint.layers import IntConv2d


class Squares(nn.Module):
    """Operations, and no parameters."""

    def forward(self, x):
        return x @ x.transpose(-1, -2)


class Narrow(Squares):
    """A subclass."""


class Net(nn.Module):
    """A convolution, and what comes after it."""

    def __init__(self, after=Squares):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.after = nn.ModuleList([after()])

    def forward(self, x):
        return self.after[0](self.conv(x)) + x


@pytest.fixture(autouse=True)
def table(monkeypatch):
    """What a test registers is forgotten."""
    monkeypatch.setattr(registered, '_least_bits', {})


def bits(model, **settings):
    """Of the convolution, of the sum and of the square, None for float."""
    convert(model, **settings)
    square = vars(model.after[0]).get('forward', model.forward).bits
    return getattr(model.conv, 'bits', None), model.forward.bits, square


PATTERNS = [
    (dict(), (8, 8, 8)),
    (dict(exclude=['after.0']), (8, 8, None)),
    (dict(exclude=['after']), (8, 8, None)),
    (dict(include=['conv']), (8, None, None)),
    (dict(include=['after']), (None, None, 8)),
    (dict(layer_bits={'after': 12}), (8, 8, 12)),
    (dict(exclude=['*']), (None, None, None)),
]


@pytest.mark.parametrize('settings, expected', PATTERNS)
def test_patterns_cover_a_module_without_parameters(settings, expected):
    assert bits(Net(), **settings) == expected


def test_a_module_that_is_left_out_computes_in_float():
    x = torch.randn(1, 3, 5, 5)
    model = Net()
    convert(model, exclude=['after'])
    product = Squares()(x)
    with torch.no_grad():
        model.conv.forward = lambda x: x
        out = model.after[0](x)
    assert torch.equal(out, product)


def test_only_a_module_that_differs_from_what_is_around_gets_a_scope_and_an_entry():
    model = Net()
    assert [entry.name for entry in convert(model)] == ['conv']
    assert 'forward' not in vars(model.after[0])
    table = format_report(convert(Net(), exclude=['after']))
    assert re.search(r'Squares +left alone +float +1 +0 +after', table)
    table = format_report(convert(Net(), layer_bits={'after': 12}))
    assert re.search(r'Squares +class kept +partly integer +12 +free +1 +0 +after', table)


def test_a_second_conversion_includes_what_the_first_left_out():
    model = Net()
    convert(model, exclude=['after'])
    assert bits(model) == (8, 8, 8)


def test_a_second_conversion_leaves_what_it_excludes_as_it_is():
    model = nn.Sequential(Net(), Net())
    convert(model, include=['0'])
    convert(model, exclude=['0'], bits=6)
    assert 'forward' not in vars(model[0].after[0]) and model[0].forward.bits == 8
    assert 'forward' not in vars(model[1].after[0]) and model[1].forward.bits == 6


def test_restored_it_has_no_scope():
    model = Net()
    convert(model, exclude=['after'])
    mmint.restore(model)
    assert not any('forward' in vars(module) for module in model.modules())


CLASS_BITS = [
    (12, dict(), 12),
    (12, dict(bits=14), 14),
    (12, dict(layer_bits={'after': 10}), 12),
    (12, dict(layer_bits={'after': 14}), 14),
    (12, dict(layer_bits={'after.0': 6}), 6),
    (12, dict(exclude=['after']), None),
    (None, dict(), None),
    (None, dict(bits=16), None),
    (None, dict(layer_bits={'*': 12}), None),
    (None, dict(layer_bits={'after.0': 6}), 6),
]


@pytest.mark.parametrize('stock', [Squares, f'{__name__}.Squares'])
@pytest.mark.parametrize('least, settings, expected', CLASS_BITS)
def test_a_class_asks_for_bits_and_the_very_name_of_a_module_wins(stock, least, settings, expected):
    mmint.register_bits(stock, least)
    assert bits(Net(), **settings)[2] == expected


def test_the_table_shows_what_a_class_asked_for():
    mmint.register_bits(Squares, 12)
    assert re.search(
        r'Squares +class kept +partly integer +12 +free +1 +0 +after', format_report(convert(Net()))
    )
    mmint.register_bits(Squares, None)
    assert re.search(r'Squares +left alone +float +1 +0 +after', format_report(convert(Net())))


def test_subclasses_ask_for_the_same_unless_they_are_registered():
    mmint.register_bits(Squares, 12)
    assert bits(Net(Narrow))[2] == 12
    mmint.register_bits(Narrow, 4)
    assert bits(Net(Narrow))[2] == 8 and bits(Net(Squares))[2] == 12


def test_a_class_of_layers_asks_too():
    mmint.register_bits(nn.Conv2d, 12)
    assert bits(Net())[:2] == (12, 8)
    assert bits(Net(), layer_bits={'conv': 6})[:2] == (6, 8)
    mmint.register_bits(nn.Conv2d, None)
    model = Net()
    assert bits(model)[:2] == (None, 8) and type(model.conv) is nn.Conv2d
    convert(model, layer_bits={'conv': 6})
    assert type(model.conv) is IntConv2d and model.conv.bits == 6


def test_modules_inside_one_that_is_float_by_class_are_converted():
    mmint.register_bits(Net, None)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Net())
    convert(model)
    assert model[1].forward.bits is None and type(model[1].conv) is IntConv2d


BAD = [
    (3, 8, TypeError, 'register_bits was given stock=3, a subclass of torch.nn.Module or its'),
    ('Squares', 8, ValueError, "register_bits was given stock='Squares', a qualified name is"),
    (Squares, 3, ValueError, 'bits=3 was given, integers from 4 to 16'),
]


@pytest.mark.parametrize('stock, least, error, message', BAD)
def test_what_is_no_class_and_bits_is_refused(stock, least, error, message):
    with pytest.raises(error, match=message):
        mmint.register_bits(stock, least)
    assert registered._least_bits == {}
