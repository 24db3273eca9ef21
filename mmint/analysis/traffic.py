"""The bytes that a call of a backend's operation reads and writes of what goes between layers.

That are activations and their gradients: float32 of two dimensions or more, mantissas, and what
ReLU and max pooling keep; each once where it is an argument, and once where it is a result. Left
out are weights and their gradients, and what there is once a channel or a group. Stock operators of
PyTorch are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..backends.source import Source
from ..numerics import FixedPoint

INTEGER, FLOAT32 = 'integer', 'float32'
_ELSEWHERE = frozenset('weight bias mean var updates node'.split())


def bytes_moved(name: str, call: SimpleNamespace) -> dict[str, int]:
    """Bytes in integers and in float32 of a call of the operation ``name``."""
    moved = dict.fromkeys((INTEGER, FLOAT32), 0)
    if isinstance(getattr(call, 'x', None), nn.Parameter):  # a weight is mapped
        return moved
    if name.endswith('_source'):  # coefficients are made of sums: whoever reads the source moves it
        return moved
    for argument, value in vars(call).items():
        if argument in _ELSEWHERE or (argument == 'out' and name.endswith('weight_grad')):
            continue
        for tensor in _tensors(value):
            size = tensor.numel() * tensor.element_size()
            if tensor.dtype in (torch.int8, torch.int16, torch.uint8):
                moved[INTEGER] += size
            elif tensor.dtype == torch.float32 and tensor.dim() > 1:
                moved[FLOAT32] += size
    return moved


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, FixedPoint):
        yield value.mantissa
    elif isinstance(value, Source):
        yield value.x.mantissa
        if value.y is not None:
            yield value.y.mantissa
    elif isinstance(value, tuple):
        for part in value:
            yield from _tensors(part)
