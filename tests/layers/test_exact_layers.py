"""ReLU, ReLU6, max pooling: PyTorch's bits, on every backend, with a bit and a byte of state."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmint.backends import Pooling, cpu, reference
from mmint.backends.magnitudes import known_magnitude
from mmint.conversion import convert


def special_values(shape, generator):
    x = torch.randint(-3, 3, shape, generator=generator).float()  # many equal elements
    chosen = torch.rand(shape, generator=generator)
    x[x == 0] *= torch.where(chosen[x == 0] < 0.5, 1, -1)
    x[chosen < 0.02] = float('nan')
    x[chosen > 0.9] = -float('inf')
    return x


def same(a, b):
    """Equal to the bit, so that 0 and -0 differ."""
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def noted(x):
    """Whether the largest magnitude (NaN above all) was noted exactly."""
    magnitudes = x.contiguous().view(torch.int32) & 0x7FFFFFFF
    return known_magnitude(x) == (int(magnitudes.max()) if x.numel() else 0)


@pytest.mark.parametrize('numel', [0, 1, 7, 8, 9, 1000, 70001])
def test_relu_and_its_gradient_have_the_same_bits_on_both_backends(numel, level):
    generator = torch.Generator().manual_seed(0)
    x, grad = special_values((numel,), generator), torch.randn(numel, generator=generator)
    out, passed = reference.relu(x, inplace=False)
    fast_out, fast_passed = cpu.relu(x, inplace=False)
    assert same(out, torch.relu(x)) and same(fast_out, out)
    assert torch.equal(fast_passed, passed) and len(passed) == (numel + 7) // 8
    expected = torch.where(x > 0, grad, 0)
    assert torch.equal(reference.relu_grad(grad, passed), expected)
    fast = cpu.relu_grad(grad, passed)
    assert torch.equal(fast, expected)
    assert noted(fast_out) and noted(fast)
    out, passed = reference.relu(x, False, 1.0)
    fast_out, fast_passed = cpu.relu(x, False, 1.0)
    assert same(out, F.relu(x).clamp(max=1.0)) and same(fast_out, out) and noted(fast_out)
    expected = torch.where((x > 0) & (x < 1), grad, 0)
    assert torch.equal(fast_passed, passed)
    assert torch.equal(cpu.relu_grad(grad, passed), expected)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_relu_in_place_notes_its_own_maximum(memory_format):
    x = torch.randn(2, 3, 5, 7).contiguous(memory_format=memory_format)
    out, _ = cpu.relu(x, inplace=True)
    assert out is x and noted(out)


def test_max_pooling_has_the_same_bits_on_both_backends(level):
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    for _ in range(100):
        kernel = rng.randint(1, 4), rng.randint(1, 4)
        pooling = Pooling(
            kernel,
            stride=(rng.randint(1, 3), rng.randint(1, 3)),
            padding=(rng.randint(0, kernel[0] // 2), rng.randint(0, kernel[1] // 2)),
            ceil_mode=rng.random() < 0.5,
        )
        x = special_values((2, 3, rng.randint(8, 14), rng.randint(8, 14)), generator)
        out, place = reference.max_pool2d(x, pooling)
        fast_out, fast_place = cpu.max_pool2d(x, pooling)
        assert same(fast_out, out) and torch.equal(fast_place, place), pooling
        grad = torch.randn(out.shape, generator=generator)
        fast_grad = cpu.max_pool2d_grad(grad, place, x.shape, pooling)
        assert torch.equal(fast_grad, reference.max_pool2d_grad(grad, place, x.shape, pooling))
        assert noted(fast_out) and noted(fast_grad)


@pytest.mark.parametrize(
    'layer',
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        nn.ReLU6(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.MaxPool2d((3, 2), 1, 1),
    ],
)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_converted_layers_compute_what_the_stock_ones_do(layer, memory_format):
    converted = nn.Sequential(copy.deepcopy(layer))
    convert(converted)
    assert type(converted[0]) is not type(layer)
    results = []
    for module in (layer, converted):
        x = torch.randn(2, 3, 9, 10, generator=torch.Generator().manual_seed(0))
        x.requires_grad_()
        out = module((x * 1).contiguous(memory_format=memory_format))
        out.backward(torch.arange(out.numel(), dtype=torch.float32).view(out.shape))
        results.append((out, x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize('setting', [dict(kernel_size=17), dict(kernel_size=3, dilation=2)])
def test_large_and_dilated_windows_stay_stock(setting):
    model = nn.Sequential(nn.MaxPool2d(**setting))
    convert(model)
    x = torch.randn(1, 1, 34, 34, requires_grad=True)
    assert torch.equal(model(x), F.max_pool2d(x, **setting))
