"""What a step captured in a CUDA graph reads anew at every replay: iteration and learning rates.

A captured kernel keeps its arguments, so that these lie in memory of the device, which
`mmint.begin_replay` writes before a replay. All graphs share one iteration a device: random bits
are named by their distance from the iteration that was begun inside of the capture.
"""

from __future__ import annotations

import torch
from torch import Tensor

_begun: int | None = None
_iterations: dict[torch.device, Tensor] = {}


class Rate(float):
    """A learning rate that a captured kernel reads from ``words``.

    Attributes:
        words: int64 (2,) on the device: mantissa and exponent of the negative rate.
    """

    words: Tensor

    def __new__(cls, rate: float, words: Tensor) -> Rate:
        """The rate at the time of the capture, and where it lies later."""
        made = super().__new__(cls, rate)
        made.words = words
        return made


def capturing() -> bool:
    """Whether what is launched now goes into a CUDA graph instead of running."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def begin(iteration: int) -> None:
    """Notes that an iteration begins, inside of a capture or outside.

    Raises:
        RuntimeError: if it is the second of a capture.
    """
    global _begun
    inside = capturing()
    if inside and _begun not in (None, iteration):
        raise RuntimeError(
            f'iteration {iteration} was begun where iteration {_begun} is being captured in a CUDA '
            'graph, one iteration a graph is accepted: capture one, and call mmint.begin_replay '
            'before each replay'
        )
    _begun = iteration if inside else None


def distance(iteration: int) -> int:
    """From the captured iteration to that which names some random bits.

    Raises:
        RuntimeError: if none was begun inside of the capture.
    """
    if _begun is None:
        raise RuntimeError(
            'a CUDA graph is being captured and no iteration was begun in it, so that every replay '
            'would draw the same random bits: call mmint.begin_iteration inside of the capture, '
            'before the forward pass'
        )
    return iteration - _begun


def iteration_on(device: torch.device) -> Tensor:
    """int64 of one element: the iteration of the replay."""
    if device not in _iterations:
        _iterations[device] = torch.empty((), dtype=torch.int64, device=device)
    return _iterations[device]


def write_iteration(iteration: int) -> None:
    """What captured kernels read as iteration from now on."""
    for on_device in _iterations.values():
        on_device.fill_(iteration)
