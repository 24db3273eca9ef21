"""Depthwise convolutions: arguments of the kernels in depthwise.cu."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...numerics import FixedPoint
from ..geometry import Geometry
from .finish import Finish
from .launch import THREADS, launch
from .launcher import launcher
from .operands import alike, filled
from .schedule import processors


def launch_depthwise(
    name: str,
    x: FixedPoint,
    y: FixedPoint,
    out: Tensor,
    finish: Finish,
    geometry: Geometry,
    sizes: tuple[Sequence[int], Sequence[int], Sequence[int]],
) -> None:
    """Launches a kernel of depthwise.cu; ``sizes`` of input, output and filter."""
    device, taps = out.device, math.prod(sizes[2])
    a, b, _ = alike(x.mantissa, y.mantissa, 1, 1)
    a = filled(a.permute(0, 2, 3, 1), 1, 1)
    images, _, _, channels = a.shape
    weight_grad = name == 'weight_grad'
    b = b.permute(0, 2, 3, 1) if weight_grad else b.permute(2, 3, 1, 0)
    parts, splits, across = None, 1, -(-channels // 32)
    if weight_grad:
        pixels = images * math.prod(sizes[1])
        splits = max(1, min(pixels // 64, 16 * processors(device) // (across * taps)))
        parts = torch.empty((splits, channels, taps), dtype=torch.int64, device=device)
        blocks = across * taps * splits
    else:
        blocks = across * -(-math.prod(out.shape[2:]) // 32) * images
    axes = zip(sizes[0], sizes[1], *geometry[:3], sizes[2], strict=True)
    arguments = [(a, b.contiguous(), out, parts, finish.arguments, images, channels, splits, *axes)]
    kernel = launcher().kernel('depthwise.cu', f'{name}_{8 * a.element_size()}', device)
    launcher().launch(kernel, (blocks, 1, 1), (THREADS, 1, 1), 0, arguments, device)
    if weight_grad:
        launch(
            'depthwise.cu', 'add_weight_parts', out.numel() // THREADS, THREADS, arguments, device
        )
