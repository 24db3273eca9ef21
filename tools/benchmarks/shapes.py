"""The shapes of layers that `benchmark.py ops` takes, model by model."""

from __future__ import annotations

from typing import NamedTuple

from mmint.backends import Geometry

# Of ViT-B: inputs and outputs of its linear layers, and their rows: patches of two images.
LINEAR_SIZES = ((768, 2304), (768, 768), (768, 3072), (3072, 768))
LINEAR_ROWS = 2 * 197


class Convolution(NamedTuple):
    """One layer: input (channels, height = width), filters, kernel, geometry."""

    model: str
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def geometry(self) -> Geometry:
        """As the backends take it."""
        return Geometry((self.stride,) * 2, (self.padding,) * 2, (self.dilation,) * 2, self.groups)

    def __str__(self) -> str:
        name = f'{self.channels}x{self.size}x{self.size} {self.kernel}x{self.kernel}'
        name += f' -> {self.filters}'
        name += f' /{self.stride}' if self.stride > 1 else ''
        name += f' dilated {self.dilation}' if self.dilation > 1 else ''
        return name + (' depthwise' if self.groups > 1 else '')


def resnet(
    size: int, dilations: tuple[int, ...] = (1, 1, 1, 1), model: str = 'ResNet-50'
) -> list[Convolution]:
    """The convolutions of a bottleneck ResNet; a dilated stage keeps its size."""
    layers = [Convolution(model, 3, size, 64, 7, 2, 3)]
    size, channels = size // 4, 64
    for stage, dilation in enumerate(dilations):
        width = 64 << stage
        stride = 2 if stage and dilation == 1 else 1
        layers += [
            Convolution(model, channels, size, width, 1),
            Convolution(model, width, size, width, 3, stride, dilation, dilation),
            Convolution(model, channels, size, 4 * width, 1, stride),
        ]
        size //= stride
        layers += [
            Convolution(model, width, size, 4 * width, 1),
            Convolution(model, 4 * width, size, width, 1),
            Convolution(model, width, size, width, 3, 1, dilation, dilation),
        ]
        channels = 4 * width
    return layers


def vgg_ssd() -> list[Convolution]:
    """The convolutions of SSD300 with VGG-16."""
    layers = []
    stages = [(300, 3, 64, 2), (150, 64, 128, 2), (75, 128, 256, 3), (38, 256, 512, 3),
              (19, 512, 512, 3)]  # fmt: skip
    for size, channels, filters, count in stages:
        for i in range(count):
            layers.append(Convolution('SSD300', filters if i else channels, size, filters, 3, 1, 1))
    layers += [
        Convolution('SSD300', 512, 19, 1024, 3, 1, 6, 6),
        Convolution('SSD300', 1024, 19, 1024, 1),
        Convolution('SSD300', 1024, 19, 256, 1),
        Convolution('SSD300', 256, 19, 512, 3, 2, 1),
        Convolution('SSD300', 512, 10, 128, 1),
        Convolution('SSD300', 128, 10, 256, 3, 2, 1),
        Convolution('SSD300', 256, 5, 128, 1),
        Convolution('SSD300', 128, 5, 256, 3),
        Convolution('SSD300', 256, 3, 128, 1),
        Convolution('SSD300', 128, 3, 256, 3),
    ]
    heads = ((38, 512, 4), (19, 1024, 6), (10, 512, 6), (5, 256, 6), (3, 256, 4), (1, 256, 4))
    for size, channels, anchors in heads:
        for outputs in (4, 81):
            layers.append(Convolution('SSD300', channels, size, anchors * outputs, 3, 1, 1))
    return layers


def deeplab() -> list[Convolution]:
    """The dilated convolutions of DeepLab, at stride 8."""
    layers = [layer for layer in resnet(256, (1, 1, 2, 4), 'DeepLab') if layer.dilation > 1]
    return layers + [Convolution('DeepLab', 2048, 32, 512, 3, 1, r, r) for r in (6, 12, 18, 24, 36)]


def mobilenet() -> list[Convolution]:
    """The convolutions of MobileNetV2, and its depthwise ones with 5 x 5 pixels."""
    name, size, channels = 'MobileNetV2', 112, 32
    layers = [Convolution(name, 3, 224, channels, 3, 2, 1)]
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1)]  # fmt: skip
    for expansion, filters, count, stride in stages:
        for step in [stride] + [1] * (count - 1):
            wide = channels * expansion
            if expansion > 1:
                layers.append(Convolution(name, channels, size, wide, 1))
            for kernel in (3, 5):
                layers.append(
                    Convolution(name, wide, size, wide, kernel, step, kernel // 2, groups=wide)
                )
            size //= step
            layers.append(Convolution(name, wide, size, filters, 1))
            channels = filters
    return layers + [Convolution(name, channels, size, 1280, 1)]


def retinanet_heads() -> list[Convolution]:
    """The convolutions of RetinaNet's heads, on levels of strides 8 to 128."""
    return [
        Convolution('RetinaNet', 256, size, filters, 3, 1, 1)
        for size in (40, 20, 10, 5, 3)
        for filters in (256, 9 * 80, 9 * 4)
    ]


def distinct(layers: list[Convolution]) -> list[Convolution]:
    """Each shape once, under the model that has it first."""
    found = {}
    for layer in layers:
        found.setdefault(layer[1:], layer)
    return list(found.values())
