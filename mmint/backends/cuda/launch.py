"""Launching kernels whose threads take turns over the elements."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...numerics import RandomBits
from .. import replays
from ..host import arguments as host
from .launcher import Argument, launcher, tensors_of
from .zeroed import zeros

THREADS = 256
MAX_BLOCKS = 2048
SERVED = 16  # elements for which a thread computes random bits: numerics/random_bits.py


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
    magnitude = zeros((), torch.int32, device)
    if elements:
        blocks = -(-elements // THREADS)
        launch(source, name, blocks, THREADS, [*arguments, magnitude], device)
    return magnitude


def grid_of_groups(elements: int, groups: int) -> int:
    """The blocks of `note_tops` (groups.cuh), for so many elements in so many groups."""
    return groups * -(-elements // groups // (16 * THREADS))


def words(random: RandomBits | None, device: torch.device) -> tuple[Argument, ...]:
    """The struct ``random_words``: in a capture, its bits are those of the replay's iteration.

    Raises:
        RuntimeError: if a CUDA graph would draw the same bits at every replay.
    """
    if random is None or not replays.capturing():
        return *host.words(random), None
    relative = random._replace(iteration=replays.distance(random.iteration))
    return *host.words(relative), replays.iteration_on(device)
