"""RoIAlign and bilinear resizing: sums of integers, near what float64 computes."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from comparison import boxes_in
from stock_code import FloatSums, convert_, in_scope, mapper, pattern
from torch import nn

from mmint.backends import NonFiniteError, RoISampling
from mmint.ops import roi_align

torchvision = pytest.importorskip('torchvision')
pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')

RESIZINGS = {
    'twice': dict(scale_factor=2),
    'twice, corners aligned': dict(scale_factor=2, align_corners=True),
    'to a size': dict(size=(20, 33)),
    'to a size, corners aligned': dict(size=(20, 33), align_corners=True),
    'down': dict(size=(4, 5)),
    'down, corners aligned': dict(size=(4, 5), align_corners=True),
    'by factors': dict(scale_factor=(1.7, 0.6)),
    'by factors computed anew': dict(scale_factor=(1.7, 0.6), recompute_scale_factor=True),
    'to one pixel': dict(size=1),
    'to one pixel, corners aligned': dict(size=1, align_corners=True),
    'much larger': dict(size=(90, 130)),
}
SIZE = 2, 3, 9, 12


def exact_roi_align(x, boxes, sampling):
    ratio = sampling.sampling_ratio or -1
    return torchvision.ops.roi_align(
        x.double(), boxes.double(), sampling.output_size, sampling.spatial_scale, ratio,
        sampling.aligned,
    )  # fmt: skip


def largest(x):
    return float(x.detach().abs().max())


def errors(actual, exact):
    """By box."""
    return (actual - exact).abs().amax((1, 2, 3))


# ---- RoIAlign ----


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 1, 2])
@pytest.mark.parametrize('shape', [(7, 7), (2, 5)])
def test_results_are_as_near_as_the_docstring_says(shape, ratio, aligned):
    """Of ordinary boxes, points, boxes turned round, outside and much larger than the image."""
    x, boxes = torch.randn(2, 3, 30, 40), boxes_in((30, 40), 4.0)
    boxes = boxes[boxes.abs().amax(1) < 1e30]  # of which torchvision makes samples beyond int
    sampling = RoISampling(shape, 0.25, ratio, aligned)
    pixels = (boxes[:, 3:] - boxes[:, 1:3]).abs() * 0.25 / torch.tensor(shape[::-1])
    bound = 2**-14 * (pixels.clamp(max=41).ceil().sum(1) + 4) * largest(x)
    out = roi_align(x, boxes, sampling, mapper(stochastic=False))
    assert (errors(out, exact_roi_align(x, boxes, sampling)) <= bound).all()


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('ratio', [0, 2])
def test_gradients_are_near_float_s(ratio, aligned):
    x = torch.randn(2, 3, 20, 30, requires_grad=True)
    boxes, sampling = boxes_in((20, 30), 8.0)[:24], RoISampling((7, 7), 0.125, ratio, aligned)
    exact = exact_roi_align(x, boxes, sampling)
    grad = torch.randn(exact.shape)
    (expected,) = torch.autograd.grad(exact, x, grad.double())
    out = roi_align(x, boxes, sampling, mapper())
    (actual,) = torch.autograd.grad(out, x, grad)
    assert largest(actual - expected) < 2**-11 * largest(expected)


def test_boxes_far_beyond_every_image():
    """They are as boxes that end 2**28 pixels away, all of whose results are nearly zero."""
    x = torch.ones(1, 2, 8, 8)
    boxes = torch.tensor([[0, -3e38, -3e38, 3e38, 3e38], [0, 1e30, 1e30, 2e30, 2e30]])
    out = roi_align(x, boxes, RoISampling((2, 2), 1.0, 0, True), mapper())
    assert largest(out) <= 2**-14


@pytest.mark.parametrize('ratio', [0, 2])
def test_a_constant_image_stays_constant(ratio):
    corner = torch.rand(50, 2) * 20
    boxes = torch.cat([torch.zeros(50, 1), corner, corner + torch.rand(50, 2) * 19], 1)
    x = torch.full((1, 2, 40, 40), 127.0)
    out = roi_align(x, boxes, RoISampling((7, 7), 1.0, ratio, False), mapper())
    assert (out == 127).all()


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_a_box_that_is_not_finite_is_an_error_that_says_so(value):
    boxes = torch.tensor([[0, 1, 1, 5, 5], [0, 1, 1, value, 5]])
    with pytest.raises(NonFiniteError, match='block was given boxes with infinite or NaN'):
        roi_align(torch.randn(1, 2, 8, 8), boxes, RoISampling((2, 2), 1.0, 0, True), mapper())


def test_a_box_of_an_image_that_is_not_there_is_an_error():
    boxes = torch.tensor([[1.0, 1, 1, 5, 5]])
    with pytest.raises(NonFiniteError, match='of images that are not there'):
        roi_align(torch.randn(1, 2, 8, 8), boxes, RoISampling((2, 2), 1.0, 0, True), mapper())


def test_no_boxes_and_their_gradient():
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    out = roi_align(x, torch.empty(0, 5), RoISampling((7, 7), 0.25, 0, True), mapper())
    assert out.shape == (0, 3, 7, 7)
    out.sum().backward()
    assert (x.grad == 0).all()


def test_gradients_have_fewer_bits_where_so_many_boxes_might_meet_in_a_pixel():
    """2**20 results leave 15 bits of 64; a sum of all on one pixel is exact to float32."""
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    boxes = torch.zeros(2**4, 5)
    out = roi_align(x, boxes, RoISampling((256, 256), 1.0, 1, True), mapper())
    out.backward(torch.full_like(out, 127.0))
    assert x.grad[0, 0, 0, 0] == 127.0 * 2**20 and x.grad.sum() == x.grad[0, 0, 0, 0]


def test_the_levels_of_a_pyramid_are_written_into_one_tensor(calls):
    """As mmdet's SingleRoIExtractor does; gradients that meet at a level are added in integers."""

    class Extractor(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2))

        def forward(self, *levels):
            heads = [conv(x) for conv, x in zip(self.convs, levels, strict=True)]
            out = levels[0].new_zeros(len(boxes), 4, 7, 7)
            for number, x in enumerate(levels):
                inds = torch.nonzero(torch.arange(len(boxes)) % 2 == number).squeeze(1)
                out[inds] = torchvision.ops.roi_align(x, boxes[inds], (7, 7), 0.25 / (number + 1))
            return out, *heads

    boxes = boxes_in((16, 16), 4.0)[:20]
    model = convert_(Extractor())
    levels = [torch.randn(2, 4, size, size, requires_grad=True) for size in (16, 8)]
    outs = model(*levels)
    with FloatSums() as sums:
        torch.autograd.backward(outs, [torch.randn_like(out) for out in outs])
    assert calls['roi_align'] == calls['roi_align_grad'] == calls['add'] == 2
    assert sums.count == 0


# ---- torchvision's own ----


def test_torchvision_s_function_and_modules_are_integer_in_a_scope(calls):
    x, boxes = torch.randn(2, 3, 16, 16), boxes_in((16, 16), 4.0)[:10]
    pooler = torchvision.ops.MultiScaleRoIAlign(['0', '1'], 7, 2)
    levels = {'0': x, '1': F.avg_pool2d(x, 2)}
    by_image = [boxes[boxes[:, 0] == i, 1:] for i in range(2)]
    expected = torchvision.ops.roi_align(x, boxes, 7, 0.25, 2, True)
    exact = pooler(levels, by_image, [(64, 64)] * 2)
    out = in_scope(lambda x: torchvision.ops.roi_align(x, boxes, 7, 0.25, 2, True), x)
    assert 0 < largest(out - expected) < 2**-11 * largest(x)
    assert calls['roi_align'] == 1
    out = in_scope(lambda x: pooler(levels, by_image, [(64, 64)] * 2), x)
    assert 0 < largest(out - exact) < 2**-11 * largest(x)
    assert calls['roi_align'] == 3


def test_torchvision_s_layer_is_converted(calls):
    model = convert_(nn.Sequential(torchvision.ops.RoIAlign(7, 0.25, 2, aligned=True)))
    x, boxes = torch.randn(2, 3, 16, 16), boxes_in((16, 16), 4.0)[:10]
    expected = torchvision.ops.roi_align(x, boxes, 7, 0.25, 2, True)
    assert largest(model[0](x, boxes) - expected) < 2**-11 * largest(x)
    by_image = [boxes[boxes[:, 0] == i, 1:] for i in range(2)]
    sorted_boxes = boxes[boxes[:, 0].argsort(stable=True)]
    model.eval()
    assert torch.equal(model[0](x, by_image), model[0](x, sorted_boxes))
    assert calls['roi_align'] == 3


# ---- resizing ----


@pytest.mark.parametrize('case', RESIZINGS)
def test_resizing_is_as_near_as_the_docstring_says(case, calls):
    settings = RESIZINGS[case] | dict(mode='bilinear')
    x = torch.randn(SIZE, requires_grad=True)
    exact = F.interpolate(x.double(), **settings)
    grad = torch.randn(exact.shape)
    (expected,) = torch.autograd.grad(exact, x, grad.double())
    out = in_scope(lambda x: F.interpolate(x, **settings), x)
    (actual,) = torch.autograd.grad(out, x, grad)
    assert largest(out - exact) <= 2**-12 * largest(x)
    assert largest(actual - expected) <= 2**-10 * largest(expected)
    assert calls['resize'] == calls['resize_grad'] == 1


def test_modules_that_call_interpolate(calls):
    x = torch.randn(SIZE)
    for module in (nn.Upsample(scale_factor=2, mode='bilinear'), nn.UpsamplingBilinear2d((5, 6))):
        expected = module(x)
        out = convert_(nn.Conv2d(3, 3, 1), nn.Sequential(module), nn.Flatten())[1](x)
        assert 0 < largest(out - expected) < 2**-12 * largest(x)
    assert calls['resize'] == 2


@pytest.mark.parametrize(
    'settings',
    [
        dict(scale_factor=2),
        dict(size=(3, 5)),
        dict(scale_factor=2, mode='bicubic'),
        dict(size=(3, 5), mode='area'),
        dict(size=(5, 6), mode='bilinear', antialias=True),
        dict(size=SIZE[2:], mode='bilinear'),
        dict(scale_factor=1, mode='bilinear'),
    ],
    ids=lambda settings: ' '.join(map(str, settings.values())),
)
def test_what_only_moves_is_exact_and_other_modes_are_float(settings, calls):
    x = torch.randn(SIZE)
    out = in_scope(lambda x: F.interpolate(x, **settings), x)
    assert torch.equal(pattern(out), pattern(F.interpolate(x, **settings)))
    assert calls['resize'] == 0


def test_what_float_refuses_is_refused():
    for settings in (dict(), dict(size=3, scale_factor=2), dict(size=(1, 2, 3)), dict(size=0)):
        with pytest.raises((ValueError, RuntimeError)):
            in_scope(
                lambda x, s=settings: F.interpolate(x, mode='bilinear', **s), torch.randn(SIZE)
            )


def test_a_constant_image_is_resized_to_a_constant():
    for size, align_corners in itertools.product(((30, 31), (4, 5)), (True, False)):
        x = torch.full(SIZE, 127.0)
        settings = dict(size=size, mode='bilinear', align_corners=align_corners)
        assert (in_scope(lambda x, s=settings: F.interpolate(x, **s), x) == 127).all()
