"""Launching kernels whose threads take turns over the elements."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...numerics import RandomBits
from ..host import arguments as host
from .launcher import Argument, launcher, refuse_capture, tensors_of

THREADS = 256
MAX_BLOCKS = 2048


def launch(
    source: str,
    name: str,
    blocks: int,
    threads: int,
    arguments: Sequence[Argument],
    device: torch.device,
) -> None:
    """Launches a kernel that needs ``blocks`` blocks, or fewer that take several turns."""
    kernel = launcher().kernel(source, name, device)
    grid = (max(1, min(MAX_BLOCKS, blocks)), 1, 1)
    launcher().launch(kernel, grid, (threads, 1, 1), 0, arguments, device)


def launch_noting(source: str, name: str, elements: int, *arguments: Argument) -> Tensor:
    """Launches a kernel for so many elements; returns the largest magnitude that it wrote."""
    device = next(tensors_of(arguments)).device
    magnitude = torch.zeros((), dtype=torch.int32, device=device)
    if elements:
        blocks = -(-elements // THREADS)
        launch(source, name, blocks, THREADS, [*arguments, magnitude], device)
    return magnitude


def words(random: RandomBits | None) -> tuple[int, ...]:
    """As `mmint.backends.host.arguments.words`.

    Raises:
        RuntimeError: if a CUDA graph would draw the same bits at every replay.
    """
    if random is not None:
        refuse_capture(
            'and an operation that rounds stochastically was called, which would draw the same '
            'random bits at every replay',
            'capture what rounds to nearest (evaluation), and train without a graph',
        )
    return host.words(random)
