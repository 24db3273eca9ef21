"""mmint: training OpenMMLab models with integer arithmetic.

Importing it makes the integer layers, hook, optimizer and runner known to OpenMMLab's registries;
where mmengine is not installed, the integer core works with PyTorch alone.
"""

from importlib.util import find_spec

from .ops import begin_iteration
from .version import __version__

if find_spec('mmengine') is not None:
    from . import openmmlab  # noqa: F401

__all__ = ['__version__', 'begin_iteration']
