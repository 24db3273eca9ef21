"""`benchmark.py norms`: integer norms, additions, pooling, interpolation and blocks beside float32.

Layers as a network runs them, with autograd, at the shapes of ResNet-50 at 2x3x320x320, layer norm
at those of ViT-B, and RoIAlign as in Faster R-CNN. Integer and float alternate, and medians are
compared; `backward` is for the input and the parameters. Inputs and gradients come with their
largest magnitude known, as the integer layer before them leaves it; in a block (convolution, norm,
ReLU) only the first one does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.ops import RoIAlign

from mmint.backends.magnitudes import known_magnitude, remember_magnitude
from mmint.conversion import convert

from .ops import alternate, mean
from .results import save

BATCH = 2
SHAPES = [(64, 160), (64, 80), (256, 80), (128, 80), (128, 40), (512, 40), (256, 40), (256, 20),
          (1024, 20), (512, 20), (512, 10), (2048, 10)]  # fmt: skip
BLOCKS = [(64, 80), (128, 40), (256, 20), (512, 10)]
TOKENS = (BATCH * 197, 768)
REGIONS = [(80, 900), (40, 120)]  # size of a level of 256 channels, boxes on it


class Residual(nn.Module):
    """``x`` plus another tensor; the parameter makes it a module that `convert` sees to."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.other = with_top(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.other


class Pool(nn.Sequential):
    """A pooling layer; the parameter as above."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.unused = nn.Parameter(torch.zeros(1))


class Regions(nn.Module):
    """RoIAlign of random boxes of an image of 320 pixels, half to twice what their level is for."""

    def __init__(self, size: int, count: int) -> None:
        super().__init__()
        stride = 320 / size
        self.layer = RoIAlign(7, 1 / stride, 0, aligned=True)
        corner, extent = torch.rand(count, 2) * 300, (torch.rand(count, 2) * 21 + 7) * stride
        number = torch.arange(count)[:, None] % BATCH
        self.boxes = torch.cat([number, corner, (corner + extent).clamp(max=320)], 1)

    def forward(self, x: Tensor) -> Tensor:
        """The regions."""
        return self.layer(x, self.boxes)


def block(channels: int, frozen: bool) -> nn.Module:
    """Convolution, batch norm and ReLU."""
    conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
    norm = nn.BatchNorm2d(channels)
    norm.train(not frozen)
    return nn.Sequential(conv, norm, nn.ReLU(inplace=True))


def cases(quick: bool) -> list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]]:
    """Kind, what makes the float layer, input shape."""
    found = []
    for channels, size in SHAPES[1::4] if quick else SHAPES:
        image = BATCH, channels, size, size
        found += [
            ('batch norm', partial(nn.BatchNorm2d, channels), image),
            ('frozen batch norm', lambda c=channels: nn.BatchNorm2d(c).eval(), image),
            ('group norm', partial(nn.GroupNorm, 32, channels), image),
            ('addition', partial(Residual, image), image),
            ('average pooling 2x2', lambda: Pool(nn.AvgPool2d(2)), image),
            (
                'bilinear, twice as large',
                partial(Pool, nn.Upsample(scale_factor=2, mode='bilinear')),
                image,
            ),
            ('global average pooling', lambda: Pool(nn.AdaptiveAvgPool2d(1)), image),
        ]
    for size, count in REGIONS:
        found.append(('RoIAlign', partial(Regions, size, count), (BATCH, 256, size, size)))
    found.append(('layer norm', partial(nn.LayerNorm, TOKENS[1]), TOKENS))
    for channels, size in BLOCKS[1:2] if quick else BLOCKS:
        image = BATCH, channels, size, size
        found += [
            ('block, batch norm', partial(block, channels, False), image),
            ('block, frozen batch norm', partial(block, channels, True), image),
        ]
    return found


def with_top(x: Tensor) -> Tensor:
    """``x``, with its largest magnitude known."""
    remember_magnitude(x, int((x.detach().view(torch.int32) & 0x7FFFFFFF).max()))
    return x


def compare(
    make: Callable[[], nn.Module], shape: tuple[int, ...], seconds: float
) -> dict[str, list[float]]:
    """Median milliseconds, integer then float, of the forward and of the backward pass."""
    layer, integer = make(), make()
    convert(integer)
    x = with_top(torch.randn(shape))
    top = known_magnitude(x)

    def run(module: nn.Module) -> Tensor:
        """On a leaf of its own, which no other run has used."""
        leaf = x.detach().requires_grad_()
        remember_magnitude(leaf, top)
        return module(leaf)

    forward = [partial(run, integer), partial(run, layer)]
    grad = with_top(torch.randn_like(layer(x)))

    def backward(out: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.backward(out, grad, retain_graph=True)

    times = dict(forward=alternate(forward, seconds))
    if not isinstance(layer, Residual):  # whose gradient is its operands', as it is
        times['backward'] = alternate([backward(out()) for out in forward], seconds)
    return times


def norms(args: argparse.Namespace) -> None:
    """Prints a row for each shape, and geometric means of integer time over float time."""
    rows = []
    torch.manual_seed(0)
    for threads in map(int, args.threads.split(',')):
        torch.set_num_threads(threads)
        for kind, make, shape in cases(args.quick):
            for direction, (ours, floats) in compare(make, shape, args.seconds / 2).items():
                row = dict(kind=kind, shape=shape, direction=direction, threads=threads)
                row |= dict(int8_ms=round(ours, 3), float_ms=round(floats, 3))
                rows.append(row | dict(ratio=round(ours / floats, 3)))
                save(rows, args.json)
                print(f'{threads} {kind:24} {direction:8} {"x".join(map(str, shape)):16} '
                      f'{ours:8.3f} {floats:8.3f} ms  {ours / floats:.2f}', flush=True)  # fmt: skip
    print('\ninteger time over float time, geometric mean over shapes')
    for key in dict.fromkeys((r['kind'], r['direction'], r['threads']) for r in rows):
        ratios = [r['ratio'] for r in rows if (r['kind'], r['direction'], r['threads']) == key]
        print(f'{key[2]} {key[0]:24} {key[1]:8} {mean(ratios):.2f}')
