"""mmcv's RoIAlign, compiled or provided by mmint, becomes an integer layer within mmdet."""

import copy

import pytest
import torch
from torch import nn

mmcv = pytest.importorskip('mmcv')

import mmint  # noqa: E402
from mmint.backends import watched  # noqa: E402
from mmint.layers import IntRoIAlign  # noqa: E402
from mmint.openmmlab.compat.mmcv_ops import provide_mmcv_ops  # noqa: E402

provide_mmcv_ops()

from mmcv import ops  # noqa: E402

pytestmark = pytest.mark.usefixtures('fresh_run')
STRIDES = [4, 8, 16, 32]


@pytest.fixture
def calls():
    """The names of the backend's operations that were called."""
    names = []

    def noted(name, operation, args, kwargs):
        names.append(name)
        return operation(*args, **kwargs)

    with watched(noted):
        yield names


def extractor():
    extractors = pytest.importorskip('mmdet.models.roi_heads.roi_extractors')
    layer = dict(type='RoIAlign', output_size=7, sampling_ratio=0)
    return extractors.SingleRoIExtractor(layer, 8, STRIDES)


def results(extractor, levels, rois):
    """Features of regions, and the levels' gradients."""
    leaves = [level.clone().requires_grad_() for level in levels]
    features = extractor(leaves, rois)
    grad = torch.linspace(-1, 1, features.numel()).view(features.shape)
    return features, *torch.autograd.grad(features, leaves, grad)


def test_an_extractor_of_mmdet_gives_nearly_the_same_in_integers(calls):
    stock = extractor()
    integer = copy.deepcopy(stock)
    mmint.convert(integer)
    assert all(isinstance(layer, IntRoIAlign) for layer in integer.roi_layers)
    levels = [torch.randn(2, 8, 256 // s, 256 // s) for s in STRIDES]
    corner, extent = torch.rand(2, 40, 2) * 180
    number = torch.randint(0, 2, (40, 1))
    rois = torch.cat([number, corner, corner + extent + 4], 1)
    expected = results(stock, levels, rois)
    assert not calls
    for a, b in zip(expected, results(integer, levels, rois), strict=True):
        assert (a - b).abs().max() <= 2**-10 * a.abs().max()
    levels_used = sum(bool(grad.any()) for grad in expected[1:])
    assert calls.count('roi_align') == calls.count('roi_align_grad') == levels_used > 1


def test_a_converted_layer_says_what_it_is_and_is_restored():
    model = nn.Sequential(ops.RoIAlign((7, 5), 0.25, 2, aligned=False))
    (row,) = mmint.convert(model)
    assert (row.name, row.before, row.after) == ('0', 'RoIAlign', 'IntRoIAlign')
    settings = 'output_size=(7, 5), spatial_scale=0.25, sampling_ratio=2, aligned=False'
    assert settings in model[0].extra_repr()
    mmint.restore(model)
    assert type(model[0]) is ops.RoIAlign


def test_a_maximum_of_samples_has_no_integer_form():
    model = nn.Sequential(ops.RoIAlign(7, pool_mode='max'), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="pool_mode='max' was given to a RoIAlign, 'avg' is acc"):
        mmint.convert(model)
    mmint.convert(model, exclude=['0'])
    assert type(model[0]) is ops.RoIAlign


def test_inputs_of_other_shapes_are_refused():
    layer = IntRoIAlign(7)
    for x, rois in (
        (torch.randn(2, 3, 4), torch.zeros(1, 5)),
        (torch.randn(1, 2, 3, 4), torch.zeros(1, 4)),
    ):
        with pytest.raises(ValueError, match=r'\(N, C, H, W\) and \(K, 5\) are accepted'):
            layer(x, rois)


@pytest.mark.parametrize(
    'settings', [dict(output_size=0), dict(output_size=7, spatial_scale=0.0),
                 dict(output_size=7, sampling_ratio=2**20)],
)  # fmt: skip
def test_settings_without_a_meaning_are_refused(settings):
    with pytest.raises(ValueError, match='a positive size and scale and at most'):
        IntRoIAlign(**settings)
