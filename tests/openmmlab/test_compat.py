"""What importing mmint changes in other packages is what `change_other_packages` lists."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

from mmint.openmmlab.compat import change_other_packages  # noqa: E402
from mmint.openmmlab.compat.layers import LAYERS  # noqa: E402

ROOT = Path(__file__).parents[2]

# Notes every attribute of every module and class of other packages, every registered name and
# every config package, imports mmint, and prints what is another object now, or new in a table.
WATCH = """
import importlib.util, json, sys
import mmcv, mmengine.config.utils, mmengine.registry, mmengine.runner
import torch, torch.utils.checkpoint, torchvision
from mmengine.registry import Registry
from mmengine.config.utils import MODULE2PACKAGE
PACKAGES = 'torch', 'torchvision', 'mmengine', 'mmcv'
def attributes():
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split('.')[0] in PACKAGES and isinstance(module, type(sys)):
            for key, value in list(vars(module).items()):
                found[name, key] = value
                if isinstance(value, type) and value.__module__ == name:
                    found.update({(name, key, k): v for k, v in vars(value).items()})
    return found
def tables():
    registries = {k: v for k, v in vars(mmengine.registry).items() if isinstance(v, Registry)}
    return {k: dict(v.module_dict) for k, v in registries.items()}, dict(MODULE2PACKAGE)
before, (registries, packages) = attributes(), tables()
finders = list(sys.meta_path)
compiled = importlib.util.find_spec('mmcv._ext') is not None
import mmint
after, (new_registries, new_packages) = attributes(), tables()
print(json.dumps(dict(
    attributes=['.'.join(k) for k in before if k in after and after[k] is not before[k]],
    registered={
        name: sorted(
            key for key, value in new.items()
            if value is not registries[name].get(key) and value.__module__.startswith('mmint')
        )
        for name, new in new_registries.items()
    },
    packages={k: v for k, v in new_packages.items() if packages.get(k) != v},
    finders=[type(finder).__name__ for finder in sys.meta_path if finder not in finders],
    provided=not compiled and 'mmcv._ext' in sys.modules,
    compiled=compiled,
)))
"""

LAYER_NAMES = [
    'IntBatchNorm1d',
    'IntBatchNorm2d',
    'IntBatchNorm3d',
    'IntConv1d',
    'IntConv2d',
    'IntConv3d',
    'IntConvTranspose1d',
    'IntConvTranspose2d',
    'IntConvTranspose3d',
    'IntGroupNorm',
    'IntInstanceNorm1d',
    'IntInstanceNorm2d',
    'IntInstanceNorm3d',
    'IntLayerNorm',
    'IntLinear',
    'IntSyncBatchNorm',
]
REGISTERED = {
    'MODELS': LAYER_NAMES,
    'OPTIMIZERS': ['IntSGD'],
    'OPTIM_WRAPPERS': ['IntOptimWrapper'],
    'HOOKS': ['IntTrainingHook'],
    'RUNNERS': ['IntRunner'],
}


def test_importing_mmint_changes_what_it_lists_and_nothing_else():
    command = [sys.executable, '-c', WATCH]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    changed = json.loads(run.stdout.splitlines()[-1])
    assert changed['attributes'] == []
    assert {name: new for name, new in changed['registered'].items() if new} == REGISTERED
    assert changed['packages'].pop('mmint') == 'mmint'
    assert set(changed['packages']) <= {'mmseg'}
    assert changed['finders'] == ['_Finder']  # mends SSDHead once its module is imported
    assert changed['provided'] != changed['compiled']


def test_the_docstring_names_every_change():
    text = change_other_packages.__doc__
    for registry in REGISTERED:
        assert f'``{registry}``' in text
    for name in ('IntSGD', 'IntOptimWrapper', 'IntTrainingHook', 'IntRunner', 'MODULE2PACKAGE'):
        assert name in text
    for name in ('mmcv._ext', 'SSDHead'):
        assert name in text


@pytest.mark.parametrize('name', LAYERS)
def test_a_class_that_is_converted_by_name_bears_that_name(name):
    module, _, layer = name.rpartition('.')
    layer = getattr(importlib.import_module(module), layer)
    assert f'{layer.__module__}.{layer.__qualname__}' == name
