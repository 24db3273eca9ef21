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
    assert re.search(r'MultiheadAttention +class kept ', report)
    assert re.search(r'PReLU +left alone', report)


FLOAT_LAYERS = [
    (nn.Conv1d(2, 2, 1), (1, 2, 4)),
    (nn.Conv3d(2, 2, 1), (1, 2, 4, 4, 4)),
    (nn.ConvTranspose1d(2, 2, 1), (1, 2, 4)),
    (nn.BatchNorm3d(2), (1, 2, 4, 4, 4)),
    (nn.InstanceNorm2d(2, affine=True), (1, 2, 4, 4)),
    (nn.LSTM(4, 4), (3, 4)),
    (nn.GRU(4, 4), (3, 4)),
    (nn.LSTMCell(4, 4), (3, 4)),
    (nn.PReLU(), (3, 4)),
    (nn.Embedding(4, 4), None),
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
    x = torch.tensor([1, 2]) if shape is None else torch.randn(shape)
    assert_stays_float(copy.deepcopy(layer), x)


def test_layers_of_torchvision_are_float_and_said_to_be():
    ops = pytest.importorskip('torchvision').ops
    x = torch.randn(1, 2, 4, 4)
    assert_stays_float(ops.DeformConv2d(2, 2, 1), x, torch.randn(1, 2, 4, 4))
    frozen = ops.FrozenBatchNorm2d(2)
    frozen.running_mean.uniform_()
    frozen.bias.uniform_()
    assert_stays_float(frozen, x)


class DeformConv2dPack(nn.Conv2d):
    """As mmcv's: a deformable convolution and, in it, the ordinary one of its offsets."""

    def __init__(self):
        super().__init__(2, 2, 1)
        self.conv_offset = nn.Conv2d(2, 2, 1)


def test_of_a_deformable_convolution_the_offsets_become_integer(monkeypatch):
    name = f'{__name__}.DeformConv2dPack'
    monkeypatch.setattr(registered, '_FLOAT_LAYERS', {name})
    model = nn.Sequential(DeformConv2dPack())
    assert [(entry.after, entry.bits) for entry in convert(model)] == [
        ('DeformConv2dPack', None), ('IntConv2d', 8),
    ]  # fmt: skip


def test_a_subclass_that_inherits_forward_is_what_it_calls():
    """`conv2d` and `linear` are integer where any module calls them, `batch_norm` is not."""
    kinds = [type('Mine', (kind,), {}) for kind in (nn.Conv2d, nn.Linear, nn.BatchNorm2d)]
    model = nn.Sequential(kinds[0](2, 2, 1), kinds[1](2, 2), kinds[2](2))
    assert [entry.after for entry in convert(model)] == ['class kept', 'class kept', 'Mine']
