"""Average pooling: sums of integers, one division."""

import math

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from stock_code import convert_, in_scope
from torch import nn

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


POOLING = {
    'windows': lambda x: F.avg_pool2d(x, 3),
    'stride': lambda x: F.avg_pool2d(x, 3, 2),
    'rectangle': lambda x: F.avg_pool2d(x, (3, 2), (2, 3), (1, 0)),
    'padding': lambda x: F.avg_pool2d(x, 3, 2, 1),
    'padding not counted': lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    'ceiling': lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    'ceiling and padding': lambda x: F.avg_pool2d(x, 3, 2, 1, True),
    'ceiling, padding not counted': lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
    'divisor': lambda x: F.avg_pool2d(x, 2, divisor_override=7),
    'by keywords': lambda x: F.avg_pool2d(input=x, kernel_size=2, stride=1),
    'module': nn.AvgPool2d(3, 1, 1),
    'global': lambda x: F.adaptive_avg_pool2d(x, 1),
    'global module': nn.AdaptiveAvgPool2d((1, 1)),
    'adaptive': lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    'adaptive in one dimension': lambda x: F.adaptive_avg_pool2d(x, (None, 2)),
    'adaptive, more than there is': lambda x: F.adaptive_avg_pool2d(x, 13),
    'one dimension': lambda x: F.avg_pool1d(x[0], 3, 2, 1),
    'one dimension, module': lambda x: nn.AvgPool1d(4)(x[0]),
    'adaptive of one dimension': lambda x: F.adaptive_avg_pool1d(x[0], 4),
    'global of one dimension': lambda x: nn.AdaptiveAvgPool1d(1)(x[0]),
    'mean of tokens': lambda x: x[0].mean(1),
    'mean of tokens, by keyword': lambda x: torch.mean(x[0], dim=(-2,)),
    'mean of pixels': lambda x: x.mean((2, 3)),
    'mean of pixels, dimensions kept': lambda x: torch.mean(x, [-2, -1], keepdim=True),
}


def integers_that_map_exactly(shape):
    """Integers of 8 bits, the largest among them."""
    x = torch.randint(-127, 128, shape).float()
    x.view(-1)[0] = 127
    return x


@pytest.mark.parametrize('case', POOLING)
def test_a_mean_is_exact_to_one_place_of_float32(case, calls):
    pool = POOLING[case]
    x = integers_that_map_exactly((2, 3, 9, 10))
    results = []
    for dtype, compute in ((torch.float64, pool), (torch.float32, lambda x: in_scope(pool, x))):
        leaf = x.to(dtype).requires_grad_()
        out = compute(leaf)
        if not results:
            grad = integers_that_map_exactly(out.shape)
        results.append((out.detach(), *torch.autograd.grad(out, leaf, grad.to(dtype))))
    assert calls['avg_pool2d'] == 1
    for exact, actual in zip(*results, strict=True):
        size = exact.float().abs().clamp(min=2**-20)  # shares that cancel leave float64's error
        place = torch.nextafter(size, torch.tensor(math.inf)) - size
        assert actual.shape == exact.shape and ((actual - exact).abs() <= place).all()


def test_pooling_without_a_scope_around_it(calls):
    """As of a neck that has no parameters."""
    pools = nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(2), nn.AdaptiveAvgPool1d(1), nn.AvgPool1d(2)
    model = convert_(nn.Conv2d(3, 3, 1), *(nn.Sequential(pool) for pool in pools))
    for i, x in zip((1, 2, 3, 4), torch.randn(4, 2, 3, 4, 4), strict=True):
        model[i](x if i < 3 else x[0])
    assert calls['avg_pool2d'] == 4
