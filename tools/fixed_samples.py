"""Holds the regions fixed that a detector's losses sample.

mmdet's samplers choose among the boxes that the step before them found. If those change by a bit,
all that is chosen after them changes, and the gradient jumps. So what they chose in one step is
what they choose again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class FixedSamples:
    """What the samplers chose in one step."""

    def __init__(self) -> None:
        self._chosen: list[Any] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Within this context, of one step, the samplers choose, which is noted."""
        self._chosen.clear()
        inside = False  # of a sampler that calls another

        def record(sample: Callable[..., Any]) -> Callable[..., Any]:
            def recording(*args: Any, **kwargs: Any) -> Any:
                nonlocal inside
                if inside:
                    return sample(*args, **kwargs)
                inside = True
                try:
                    self._chosen.append(sample(*args, **kwargs))
                finally:
                    inside = False
                return self._chosen[-1]

            return recording

        with _replaced(record):
            yield

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Within this context, of one step, they choose the same again.

        Raises:
            StopIteration: if they are called more often than in the step that was recorded.
        """
        chosen = iter(self._chosen)
        with _replaced(lambda sample: lambda *args, **kwargs: copy.copy(next(chosen))):
            yield


@contextmanager
def _replaced(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within this context the samplers of mmdet, where it is installed, are wrapped."""
    try:
        from mmdet.models.task_modules.samplers import BaseSampler
    except ImportError:
        yield
        return
    classes = [BaseSampler]
    for each in classes:  # which grows
        classes += each.__subclasses__()
    stock = [(each, vars(each)['sample']) for each in set(classes) if 'sample' in vars(each)]
    for each, sample in stock:
        each.sample = wrap(sample)
    try:
        yield
    finally:
        for each, sample in stock:
            each.sample = sample
