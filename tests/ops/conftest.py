"""Fixtures of the tests of operations."""

from collections import Counter

import pytest

from mmint import backends


@pytest.fixture
def calls(backend):
    """How often these operations of the backend were called."""
    count = Counter()

    def counted(name, operation, args, kwargs):
        if name in ('add', 'matmul', 'conv2d', 'avg_pool2d'):
            count[name] += 1
        return operation(*args, **kwargs)

    with backends.watched(counted):
        yield count
