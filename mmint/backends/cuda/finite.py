"""Values that are not finite: noted on the device by kernels, reported once an iteration.

A kernel that meets an infinity or NaN writes the number of its call to its device's flag, unless
an earlier call has done so, and goes on with zeros. Nothing waits for the device until `check`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import NonFiniteError, named_error

MAX_CALLS = 1 << 16  # of a loop that never checks; earlier ones lose their names
INT32_MOST = (1 << 31) - 1


class _Calls:
    """Those on one device since its last check: how many, and what the latest were to raise."""

    def __init__(self) -> None:
        self.count = 0
        self.errors: deque[Callable[[], Exception] | None] = deque(maxlen=MAX_CALLS)

    def error(self, number: int) -> Callable[[], Exception] | None:
        """What `naming` was given for a call, None if that was nothing or is forgotten."""
        place = number - 1 - (self.count - len(self.errors))
        return self.errors[place] if 0 <= place < len(self.errors) else None


_flags: dict[torch.device, Tensor] = {}
_calls: dict[torch.device, _Calls] = defaultdict(_Calls)


def flag(device: torch.device) -> Tensor:
    """The flag of a device: int32 of one element, 0 or the number of the call that failed first."""
    if device not in _flags:
        _flags[device] = torch.zeros((), dtype=torch.int32, device=device)
    return _flags[device]


def number(device: torch.device) -> int:
    """A number for the next call on this device, from 1 on, under the name that `naming` gave."""
    calls = _calls[device]
    calls.count += 1
    calls.errors.append(named_error())
    return min(calls.count, INT32_MOST)


def check(device: torch.device) -> None:
    """Waits for the device, and forgets the calls so far; not while its stream is captured.

    Raises:
        NonFiniteError: if a call since the last check met an infinity or NaN: what `naming` was
            given for the first such call.
    """
    if device.type == 'cuda' and torch.cuda.is_current_stream_capturing():
        return
    if device.type == 'cuda' and device.index is None:
        device = torch.device('cuda', torch.cuda.current_device())
    calls, failed = _calls.pop(device, _Calls()), int(flag(device))
    if not failed:
        return
    forget(device)
    raise (calls.error(failed) or _unnamed)()


def forget(device: torch.device) -> None:
    """Forgets the calls on a device so far, and what they met."""
    _calls.pop(device, None)
    flag(device).zero_()


def _unnamed() -> NonFiniteError:
    return NonFiniteError(
        'a tensor with infinite or NaN values was mapped to integers, finite ones are accepted: '
        'check the data, then the learning rate and its warm-up'
    )
