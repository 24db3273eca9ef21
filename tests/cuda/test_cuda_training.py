"""A model trained by the CUDA kernels, in the emulator or on a GPU, and by the C kernels.

One seed, and the same bits.
"""

import pytest
import torch
import torch.nn.functional as F
from comparison import CPU, DEVICES, assert_same
from torch import nn

from mmint import backends
from mmint.backends import backend_for, cpu, cuda
from mmint.conversion import convert
from mmint.ops.run import current_run
from mmint.optim import IntSGD


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(channels), nn.ReLU()

    def forward(self, x):
        return self.relu(self.norm(self.conv(x)) + x)


class Attention(nn.Module):
    """Of pixels to pixels, with a residual connection, a norm used twice and a learnt offset."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.offset = nn.LayerNorm(channels), nn.Parameter(torch.randn(1, channels))
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(tokens + self.offset)).chunk(3, -1)
        scores = q @ k.transpose(1, 2)
        weights = scores.cpu().softmax(-1).to(x.device)  # in float: the same bits on the CPU only
        tokens = tokens + self.out(self.norm(weights @ v))
        return tokens.transpose(1, 2).reshape(x.shape)


def small_model():
    """Every kind of integer layer and operation, sums longer than a tile, and odd sizes."""
    torch.manual_seed(1)
    frozen = nn.BatchNorm2d(12).eval()
    nn.init.uniform_(frozen.running_var, 0.5, 2)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, 2, 1, bias=False), nn.GroupNorm(4, 24), nn.ReLU(inplace=True),
        Residual(24), nn.AvgPool2d(3, 2, 1), Attention(24),
        nn.ConvTranspose2d(24, 12, 2, 2), frozen, nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 12, 10),
    )  # fmt: skip


def train(device, images, labels):
    """What every module returns, the gradients, parameters and buffers, in each step.

    The loss is in float, so it is computed on the CPU.
    """
    model = small_model().to(device)
    convert(model)
    seen = []
    for module in model.modules():
        module.register_forward_hook(
            lambda module, x, out: seen.append((type(module).__name__, out.detach().cpu().clone()))
        )
    optimizer = IntSGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    for step, (x, y) in enumerate(zip(images, labels, strict=True)):
        current_run.begin_iteration(step)
        loss = F.cross_entropy(model(x.to(device)).cpu(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        backend_for(device).check(device)
        for name, x in model.state_dict(keep_vars=True).items():
            seen.append((name, x.detach().cpu().clone()))
            if x.requires_grad:
                seen.append((f'gradient of {name}', x.grad.cpu()))
    return seen


@pytest.mark.parametrize('device', DEVICES)
def test_training_gives_the_same_bits(device, request, fresh_run, monkeypatch):
    batch, size, steps = (8, 32, 4) if device.type == 'cuda' else (2, 15, 2)
    if device == CPU:
        request.getfixturevalue('emulated')
    torch.manual_seed(0)
    data = torch.randn(steps, batch, 3, size, size), torch.randint(0, 10, (steps, batch))
    monkeypatch.setattr(backends, 'wish', 'cuda')
    assert backend_for(device) is cuda
    actual = train(device, *data)
    monkeypatch.setattr(backends, 'wish', 'cpu' if cpu.available() else 'reference')
    expected = train(CPU, *data)
    assert len(actual) == len(expected) > 40 * steps
    for (name, x), (same_name, y) in zip(actual, expected, strict=True):
        assert name == same_name
        if y.dtype == torch.float32:
            assert_same(x.contiguous(), y.contiguous())
        else:
            assert torch.equal(x, y)
