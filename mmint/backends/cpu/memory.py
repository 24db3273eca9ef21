"""Freed memory, kept for the next step instead of handed back to the system."""

from __future__ import annotations

import ctypes
import os

# Of glibc's <malloc.h>: how much may be free before the system is given some, and from what size a
# tensor gets memory of its own, which goes back to the system when it is freed.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 1 << 30  # bytes
OLD_MMAP_LIMIT = 1 << 25  # the most that older versions of glibc accept
# A user who says how malloc works is not overruled.
VARIABLES = 'GLIBC_TUNABLES', 'MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_'


def keep_freed_memory() -> None:
    """Lets this process keep the memory of freed tensors, 1 GB of it, for those of the next step.

    A training step frees all that the next one allocates. By default glibc's malloc hands much of
    it back to the system, which then gives page after page of it anew: on a virtual machine some
    8 ns an element, several times what mapping one takes. The peak stays as it was.

    `IntTrainingHook`, tools/train.py and tools/benchmark.py call this, for float models as for
    integer ones; a training loop of one's own may. It does nothing where malloc is not glibc's, or
    where one of the environment variables `VARIABLES` is set.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None or any(variable in os.environ for variable in VARIABLES):
        return
    mallopt(TRIM_THRESHOLD, KEPT)
    if not mallopt(MMAP_THRESHOLD, KEPT):
        mallopt(MMAP_THRESHOLD, OLD_MMAP_LIMIT)
