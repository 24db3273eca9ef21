"""Values that are not finite: noted on the device by kernels, reported once an iteration.

A kernel that meets an infinity or NaN writes the number of its call to its device's flag, unless
an earlier call has done so, and goes on with zeros. Nothing waits for the device until `check`, and
a second `check` of an iteration finds nothing to wait for.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import NonFiniteError, named_error
from ..replays import capturing
from .launcher import refuse_first_use

MAX_CALLS = 1 << 16  # of a loop that never checks; earlier ones lose their names
INT32_MOST = (1 << 31) - 1
Error = Callable[[], Exception] | None


class _Calls:
    """Those on one device: how many since its last check, and what they were to raise.

    A call that is captured in a CUDA graph happens at every replay, so it is not forgotten by
    `check`; its number is negative.
    """

    def __init__(self) -> None:
        self.flag: Tensor | None = None
        self.captured: list[Error] = []
        self.forget()

    def forget(self) -> None:
        """Starts anew, but for the captured calls."""
        self.count = 0
        self.errors: deque[Error] = deque()

    def error(self, number: int) -> Error:
        """What `naming` was given for a call, None if that was nothing or is forgotten."""
        if number < 0:
            return self.captured[-number - 1]
        place = number - 1 - (self.count - len(self.errors))
        return self.errors[place] if 0 <= place < len(self.errors) else None


_devices: dict[torch.device, _Calls] = defaultdict(_Calls)


def flag(device: torch.device) -> Tensor:
    """The flag of a device: int32 of one element, 0 or the number of the call that failed first.

    Raises:
        RuntimeError: if it would be made in the memory of a CUDA graph.
    """
    calls = _devices[device]
    if calls.flag is None:
        refuse_first_use()
        calls.flag = torch.zeros((), dtype=torch.int32, device=device)
    return calls.flag


def number(device: torch.device) -> int:
    """A number for the next call on this device under the name that `naming` gave, never 0."""
    calls = _devices[device]
    if capturing():
        calls.captured.append(named_error())
        return -len(calls.captured)
    calls.count += 1
    calls.errors.append(named_error())
    if len(calls.errors) > MAX_CALLS:
        calls.errors.popleft()
    return min(calls.count, INT32_MOST)


def check(device: torch.device) -> None:
    """Waits for the device if there were calls since the last check, and forgets them.

    Not while its stream is captured.

    Raises:
        NonFiniteError: if a call since the last check met an infinity or NaN: what `naming` was
            given for the first such call.
    """
    if capturing():
        return
    if device.type == 'cuda' and device.index is None:
        device = torch.device('cuda', torch.cuda.current_device())
    calls = _devices[device]
    if not calls.count and not calls.captured:
        return
    failed = int(flag(device))
    error = calls.error(failed) if failed else None
    calls.forget()
    if failed:
        flag(device).zero_()
        raise (error or _unnamed)()


def forget(device: torch.device) -> None:
    """Forgets the calls on a device so far, and what they met."""
    _devices[device].forget()
    flag(device).zero_()


def _unnamed() -> NonFiniteError:
    return NonFiniteError(
        'a tensor with infinite or NaN values was mapped to integers, finite ones are accepted: '
        'check the data, then the learning rate and its warm-up'
    )
