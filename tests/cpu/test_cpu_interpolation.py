"""The C kernels of RoIAlign and resizing against the reference, bit for bit."""

import math

import pytest
import torch
from comparison import Comparison, box_cases, mantissas, resizings

from mmint.backends import NonFiniteError, RoISampling, cpu

check = Comparison(cpu, int)
pytestmark = pytest.mark.skipif(not cpu.available(), reason='the C kernels are not built')


def test_roi_align(level):
    for channels, (size, boxes, sampling) in zip((1, 16, 19, 33) * 9, box_cases(), strict=False):
        x = mantissas((2, channels, *size), 16)
        check.roi_align(x, boxes, sampling)


def test_resizing(level):
    for channels, (size, places) in zip((1, 16, 19, 33) * 9, resizings(), strict=False):
        check.resizing(mantissas((2, channels, *size), 16), places)


def test_roi_align_at_its_limits(level):
    """All mantissas extreme, boxes one over the other, exponents beyond what a factor can do."""
    boxes = torch.tensor([[0.0, 3, 3, 3, 3]]).repeat(40, 1)
    for exponent in (-150, -120, -98, 0, 100, 120):
        for aligned in (True, False):
            x = mantissas((1, 3, 9, 9), 16, exponent, extreme=True)
            check.roi_align(x, boxes, RoISampling((14, 14), 1.0, 2, aligned), extreme=True)


def test_nothing_is_interpolated(level):
    check.roi_align(
        mantissas((2, 5, 6, 7), 16), torch.empty(0, 5), RoISampling((3, 3), 1.0, 0, True)
    )
    check.roi_align(
        mantissas((2, 0, 6, 7), 16), torch.zeros(2, 5), RoISampling((3, 3), 1.0, 0, True)
    )


def test_threads(threads):
    size, boxes, sampling = next(box_cases())
    check.roi_align(mantissas((2, 70, *size), 16), boxes, sampling)
    size, places = next(resizings())
    check.resizing(mantissas((2, 70, *size), 16), places)


@pytest.mark.parametrize('number, x', [(0, math.nan), (0, math.inf), (2, 0.0), (-1, 0.0)])
def test_a_bad_box_is_an_error(number, x):
    box = torch.tensor([[0.0, 0, 0, 4, 4], [number, x, 0, 4, 4]])
    with pytest.raises(NonFiniteError):
        cpu.roi_align(mantissas((2, 3, 5, 5), 16), box, RoISampling((2, 2), 1.0, 0, True))
