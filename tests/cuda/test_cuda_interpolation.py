"""The CUDA kernels of RoIAlign and resizing against the reference, bit for bit.

They run in the emulator, through the host code that a GPU sees, and on a GPU by `pytest -m gpu`.
"""

import itertools
import math

import pytest
import torch
from comparison import CPU, DEVICES, Comparison, box_cases, mantissas, moved, resizings

from mmint.backends import NonFiniteError, RoISampling, cuda


@pytest.fixture(params=DEVICES)
def check(request):
    if request.param == CPU:
        request.getfixturevalue('emulated')
    return Comparison(cuda, torch.Tensor, request.param)


def test_roi_align(check):
    some = itertools.islice(box_cases(), 0, None, 3)
    for channels, (size, boxes, sampling) in zip((1, 33) * 4, some, strict=False):
        check.roi_align(mantissas((2, channels, *size), 16), boxes, sampling)


def test_resizing(check):
    for channels, (size, places) in zip((1, 33) * 9, resizings(), strict=False):
        check.resizing(mantissas((2, channels, *size), 16), places)


def test_roi_align_at_its_limits(check):
    """All mantissas extreme, boxes one over the other, exponents beyond what a factor can do."""
    boxes = torch.tensor([[0.0, 3, 3, 3, 3]]).repeat(5, 1)
    for exponent in (-150, -98, 0, 120):
        x = mantissas((1, 3, 9, 9), 16, exponent, extreme=True)
        check.roi_align(x, boxes, RoISampling((14, 14), 1.0, 2, True), extreme=True)


def test_nothing_is_interpolated(check):
    sampling = RoISampling((3, 3), 1.0, 0, True)
    check.roi_align(mantissas((2, 5, 6, 7), 16), torch.empty(0, 5), sampling)
    check.roi_align(mantissas((2, 0, 6, 7), 16), torch.zeros(2, 5), sampling)


@pytest.mark.parametrize('number, x', [(0, math.nan), (0, math.inf), (2, 0.0), (-1, 0.0)])
def test_a_bad_box_is_reported_when_the_device_is_checked(check, number, x):
    boxes = torch.tensor([[0.0, 0, 0, 4, 4], [number, x, 0, 4, 4]])
    check.run('roi_align', mantissas((2, 3, 5, 5), 16), boxes, RoISampling((2, 2), 1.0, 0, True))
    with pytest.raises(NonFiniteError):
        cuda.check(moved(boxes, check.device).device)
