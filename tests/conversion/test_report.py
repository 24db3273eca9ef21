"""What the table of a conversion says of each layer, and that it is so."""

import copy
import re

import pytest
import torch
from torch import nn

from mmint.conversion import convert, format_report, registered
from mmint.ops.run import Site
from mmint.ops.scope import ForwardScope, Place, entered


def test_the_report_names_what_computes_in_integers_with_parameters_of_its_own():
    model = nn.Sequential(nn.MultiheadAttention(8, 2), nn.PReLU())
    report = format_report(convert(model, exclude=['1']))
    assert re.search(r'MultiheadAttention +class kept +partly integer +8 ', report)
    assert re.search(r'PReLU +left alone +float ', report)


@pytest.mark.parametrize(
    'layer, arithmetic',
    [
        (nn.Conv2d(2, 2, 1), 'integer'),
        (nn.Conv1d(2, 2, 1), 'integer'),
        (nn.ConvTranspose3d(2, 2, 1), 'integer'),
        (nn.InstanceNorm2d(2), 'integer'),
        (nn.ReLU(), 'exact'),
        (nn.MaxPool2d(2), 'exact'),
        (nn.MaxPool2d(3, 2), 'exact, float gradient'),
        (nn.Embedding(4, 4), 'exact, float gradient'),
        (nn.Embedding(4, 4, max_norm=1.0), 'float'),
        (nn.EmbeddingBag(4, 4), 'float'),
        (nn.GRU(4, 4), 'float'),
    ],
)
def test_the_table_says_what_a_layer_computes_in(layer, arithmetic):
    (entry,) = convert(nn.Sequential(layer))
    assert entry.arithmetic == arithmetic
    assert re.search(f' {arithmetic} ', format_report([entry]))


def test_what_is_left_out_computes_in_float():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    entries = convert(model, exclude=['1'])
    assert [(e.after, e.arithmetic) for e in entries] == [
        ('IntLinear', 'integer'), ('left alone', 'float'),
    ]  # fmt: skip


FLOAT_LAYERS = [
    (nn.LSTM(4, 4), (3, 4)),
    (nn.GRU(4, 4), (3, 4)),
    (nn.LSTMCell(4, 4), (3, 4)),
    (nn.PReLU(), (3, 4)),
    (nn.Bilinear(4, 4, 2), None),
]


def flat(out):
    return [out] if torch.is_tensor(out) else [t for each in out for t in flat(each)]


def assert_stays_float(layer, *inputs):
    expected = layer(*inputs)
    report = convert(nn.Sequential(layer, nn.Linear(4, 4)))
    assert [entry.name for entry in report] == ['0', '1']
    assert re.search(rf'{type(layer).__name__} +left alone ', format_report(report))
    around = ForwardScope(nn.Identity(), Site('around'), 8)
    with entered(Place(around, training=True)):
        out = layer(*inputs)
    assert all(torch.equal(*pair) for pair in zip(flat(out), flat(expected), strict=True))


@pytest.mark.parametrize('layer, shape', FLOAT_LAYERS, ids=lambda v: type(v).__name__)
def test_layers_without_an_integer_counterpart_are_float_and_said_to_be(layer, shape):
    inputs = [torch.randn(3, 4)] * 2 if shape is None else [torch.randn(shape)]
    assert_stays_float(copy.deepcopy(layer), *inputs)


def test_deformable_convolutions_are_float_and_said_to_be():
    ops = pytest.importorskip('torchvision').ops
    x = torch.randn(1, 2, 4, 4)
    assert_stays_float(ops.DeformConv2d(2, 2, 1), x, torch.randn(1, 2, 4, 4))


def test_layers_without_parameters_are_listed():
    frozen = pytest.importorskip('torchvision').ops.FrozenBatchNorm2d(2)
    (entry,) = convert(nn.Sequential(frozen))
    assert (entry.before, entry.after, entry.bits, entry.parameters) == (
        'FrozenBatchNorm2d', 'IntFrozenBatchNorm2d', 8, 0,
    )  # fmt: skip


class DeformConv2dPack(nn.Conv2d):
    """As mmcv's: a deformable convolution and, in it, the ordinary one of its offsets."""

    def __init__(self):
        super().__init__(2, 2, 1)
        self.conv_offset = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return self.conv_offset(x)


def test_of_a_deformable_convolution_the_offsets_become_integer(monkeypatch):
    name = f'{__name__}.DeformConv2dPack'
    monkeypatch.setattr(registered, '_FLOAT_LAYERS', {name})
    model = nn.Sequential(DeformConv2dPack())
    assert [(entry.after, entry.bits) for entry in convert(model)] == [
        ('left alone', None), ('IntConv2d', 8),
    ]  # fmt: skip
