"""The optimizer wrapper of integer training."""

from __future__ import annotations

from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch.optim import Optimizer

from ...optim import IntSGD


def mixed_precision(wrapper: str) -> str:
    """The error for an optimizer wrapper of mixed precision."""
    return (
        f'the run has integer layers and the optimizer wrapper {wrapper}, integer training needs '
        "no mixed precision: leave out --amp, or set runner_type='IntRunner' in the config, which "
        'replaces the wrapper'
    )


@OPTIM_WRAPPERS.register_module()
class IntOptimWrapper(OptimWrapper):
    """`mmengine.optim.OptimWrapper` for `IntSGD`; it takes the same arguments.

    Raises:
        TypeError: if the optimizer is another one.
    """

    def __init__(self, optimizer: Optimizer, **kwargs: Any) -> None:
        if not isinstance(optimizer, IntSGD):
            raise TypeError(
                f'IntOptimWrapper was given the optimizer {type(optimizer).__name__}, IntSGD is '
                "accepted: write optimizer=dict(type='IntSGD', ...), or use type='OptimWrapper' to "
                'update the weights in float'
            )
        super().__init__(optimizer, **kwargs)
