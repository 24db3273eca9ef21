"""mmengine's way to integer training: hook, optimizer wrapper, runner."""

from .int_optim_wrapper import IntOptimWrapper
from .int_runner import IntRunner
from .int_training_hook import IntTrainingHook

__all__ = ['IntOptimWrapper', 'IntRunner', 'IntTrainingHook']
