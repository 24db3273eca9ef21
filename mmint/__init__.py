"""mmint: training OpenMMLab models with integer arithmetic.

Importing it makes the integer layers, hook, optimizer and runner known to OpenMMLab's registries;
`mmint.openmmlab.compat.change_other_packages` lists what that changes. Where mmengine is not
installed, the integer core works with PyTorch alone: `mmint.convert` and `mmint.IntSGD`.
"""

from importlib.util import find_spec

from .conversion import convert, register_bits, register_layer, restore
from .ops import begin_iteration, begin_replay
from .optim import IntSGD
from .version import __version__

if find_spec('mmengine') is not None:
    from . import openmmlab  # noqa: F401

__all__ = [
    'IntSGD',
    '__version__',
    'begin_iteration',
    'begin_replay',
    'convert',
    'register_bits',
    'register_layer',
    'restore',
]
