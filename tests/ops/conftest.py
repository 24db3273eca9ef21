"""Fixtures of the tests of operations."""

from collections import Counter

import pytest

from mmint import backends

COUNTED = frozenset(
    """
    add matmul conv2d avg_pool2d roi_align roi_align_grad resize resize_grad
    """.split()
)


@pytest.fixture
def calls(backend):
    """How often these operations of the backend were called."""
    count = Counter()

    def counted(name, operation, args, kwargs):
        if name in COUNTED:
            count[name] += 1
        return operation(*args, **kwargs)

    with backends.watched(counted):
        yield count
