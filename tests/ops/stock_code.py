"""Modules whose own code computes what integer operations replace, and what tests ask of them."""

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmint import backends
from mmint.conversion import convert
from mmint.numerics import Site, current_run
from mmint.ops import Mapper

SIGMAS = 5  # of a mean's distance from the expectation: one in 1.7 million by chance


def pattern(x):
    return x.detach().contiguous().view(torch.int32)


def assert_same(actual, expected):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    assert torch.equal(pattern(actual), pattern(expected))


def mapper(bits=8, call=0, stochastic=True):
    return Mapper(Site('block', 5), bits, stochastic, call)


def ones_place(x, bits):
    """The value of a mantissa's last place: of the exponent that ``x`` is mapped with."""
    return 2.0 ** int(backends.reference.quantize(x, bits, None).exponent)


class Residual(nn.Module):
    """A block with a constant to add, which tests replace."""

    offset = None

    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        out = self.conv(x)
        out += x
        return out if self.offset is None else out + self.offset


class Attention(nn.Module):
    """As stock code writes it, over the pixels of an image."""

    def __init__(self, channels, heads):
        super().__init__()
        self.qkv, self.heads = nn.Linear(channels, 3 * channels), heads

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        images, length, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(images, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        out = F.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).reshape(images, length, channels)


class Runs(nn.Module):
    """A module whose forward pass is a function; the parameter makes it one that learns."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, *args):
        return self.function(*args)


def convert_(*modules, **settings):
    """The modules, in sequence if there are several, converted."""
    model = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
    convert(model, **settings)
    return model


def in_scope(function, *args, **settings):
    """What ``function`` computes in the forward pass of a converted module."""
    return convert_(Runs(function), **settings)(*args)


class FloatSums(TorchDispatchMode):
    """Counts additions of two float32 tensors that PyTorch executes."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        adds = func._schema.name in ('aten::add', 'aten::add_')
        tensors = all(isinstance(a, Tensor) and a.numel() > 1 for a in args[:2])
        self.count += adds and tensors and out.dtype == torch.float32
        return out


def float_sums(model, *inputs):
    """Of a training step; the backward pass begins with other gradients than ones."""
    for tensor in (*inputs, *model.parameters()):
        tensor.grad = None
    with FloatSums() as counter:
        out = model(*inputs)
        outputs = list(out) if isinstance(out, (list, tuple)) else [out]
        torch.autograd.backward(outputs, [torch.randn_like(o) for o in outputs])
    return counter.count


def trained(model, x):
    """Output and gradients of a training step that begins an iteration."""
    current_run.begin_iteration(3)
    x = x.clone().requires_grad_()
    model.zero_grad()
    out = model(x)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape))
    return out.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)


def assert_all_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_same(a, b)


def assert_close_at_16_bits(function, *inputs):
    """Output and gradients in integers of 16 bits are near float's; they are of the order of 1."""
    results = []
    for compute in (function, lambda *args: in_scope(function, *args, bits=16)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = compute(*leaves)
        grad = torch.linspace(-1, 1, out.numel()).view(out.shape)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, grad)])
    assert not torch.equal(results[0][0], results[1][0])
    for expected, actual in zip(*results, strict=True):
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() < 2e-3 * max(1, float(expected.abs().max()))
