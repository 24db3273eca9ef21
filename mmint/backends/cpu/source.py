"""Elements of norms that nobody has written: arguments of the kernels in source.c."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..host.arguments import ceiling_pattern
from ..magnitudes import remember_magnitude
from ..source import Masked, Source, Unwritten
from .activation import relu_grad
from .library import ready
from .operands import planar_pair, to_planar


def elements(source: Unwritten) -> Tensor:
    """As `Backend.elements`."""
    if isinstance(source, Masked):
        return relu_grad(source.x, source.passed)
    out = torch.empty(source.x.mantissa.shape, dtype=torch.float32)
    top = ready().elements(
        **with_source('x', source), out=out, images=len(out), threads=torch.get_num_threads()
    )  # fmt: skip
    remember_magnitude(out, top)
    return out


def relu_passed(source: Source) -> Tensor:
    """As `Backend.relu_passed`."""
    mantissa = source.x.mantissa
    out = torch.empty((mantissa.numel() + 7) // 8, dtype=torch.uint8)
    ready().relu_passed(
        **with_source('x', source), out=out, images=len(mantissa), threads=torch.get_num_threads()
    )  # fmt: skip
    return out


def with_source(name: str, x: Tensor | Unwritten) -> dict[str, Any]:
    """The arguments that say what to read: contiguous float32, or what makes it."""
    memory = passed = mantissas = others = coefficients = None
    channels, pixels, per_image, wide, ceiling = 0, 0, False, False, None
    if isinstance(x, Tensor):
        memory = x
    elif isinstance(x, Masked):
        memory, passed = x.x.detach().contiguous(), x.passed
    else:
        if x.y is None:
            mantissas = to_planar(x.x.mantissa)
        else:
            mantissas, others, _ = planar_pair(x.x, x.y)
        coefficients, ceiling = x.coefficients, x.ceiling
        channels, pixels = mantissas.shape[1], mantissas.shape[2:].numel()
        per_image, wide = len(coefficients) != channels, mantissas.dtype == torch.int16
    return {
        name: memory,
        f'{name}_passed': passed,
        f'{name}_mantissas': mantissas,
        f'{name}_others': others,
        f'{name}_coefficients': coefficients,
        f'{name}_channels': channels,
        f'{name}_pixels': pixels,
        f'{name}_per_image': per_image,
        f'{name}_wide': wide,
        f'{name}_ceiling': ceiling_pattern(ceiling),
    }
