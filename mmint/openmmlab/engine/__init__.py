"""mmengine's way to integer training: hook, optimizer wrapper, runner."""

from .hook import IntTrainingHook
from .optim_wrapper import IntOptimWrapper
from .runner import IntRunner

__all__ = ['IntOptimWrapper', 'IntRunner', 'IntTrainingHook']
