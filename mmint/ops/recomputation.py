"""Modules that run their forward pass again in a backward pass of their own.

A reversible block keeps no activations: it computes its input from its output, and then what it
needs to back-propagate. That second run has to draw the random bits of the first. Its call is a
method of the block's, outside of PyTorch's checkpointing, so the method is told where the run was
when the forward pass began.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..numerics import FREE
from .run import Calls, Moment, Site, current_run
from .scope import ForwardScope, Place, current_place, entered


class RecomputedScope(ForwardScope):
    """The `ForwardScope` of a module that recomputes, and, in `recompute`, its method.

    Attributes:
        method: the name of the method of the module that runs parts of its forward pass again.
    """

    def __init__(
        self, module: nn.Module, site: Site, bits: int | None, method: str, exponents: str = FREE
    ) -> None:
        super().__init__(module, site, bits, exponents)
        self.method = method
        self._iteration, self._passes = -1, 0  # so many forward passes in it
        self._began: tuple[Moment, Calls, bool]

    @torch.compiler.disable
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As that of `ForwardScope`; notes where the run is."""
        if not self.module.training:
            return super().__call__(*args, **kwargs)
        same = self._iteration == current_run.begun
        self._iteration, self._passes = current_run.begun, self._passes * same + 1
        outer = current_place()
        training = outer is None or outer.training
        self._began = current_run.moment(), current_run.calls.copy(), training
        with current_run.to_be_replayed():
            return super().__call__(*args, **kwargs)

    @torch.compiler.disable
    def recompute(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method, such that it draws the random bits of the forward pass.

        Raises:
            RuntimeError: if there was not one forward pass in training in the iteration.
        """
        if self._passes != 1 or self._iteration != current_run.begun:
            raise RuntimeError(
                f'{self.site.name} recomputes its forward pass, of which one in training in each '
                'iteration is accepted: call `mmint.begin_iteration` before each forward pass, or '
                'exclude the module from conversion'
            )
        moment, calls, training = self._began
        with current_run.replay(moment, calls), entered(Place(self, training)):
            return getattr(type(self.module), self.method)(self.module, *args, **kwargs)
