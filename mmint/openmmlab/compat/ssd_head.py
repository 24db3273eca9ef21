"""mmdet's SSD head, mended: in recent versions, 3.3 among them, it cannot predict.

Its base class reads ``loss_cls``, which every head but this one sets
(github.com/open-mmlab/mmdetection/issues/11063), so that a training fails at its first validation.
"""

from __future__ import annotations

import functools
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NAME = 'mmdet.models.dense_heads.ssd_head'


def let_ssd_predict() -> None:
    """Gives every ``SSDHead`` the attribute, as soon as its module is imported."""
    if NAME in sys.modules:
        _mend(sys.modules[NAME])
    else:
        sys.meta_path.insert(0, _Finder())


def _mend(module: ModuleType) -> None:
    init = module.SSDHead.__init__

    @functools.wraps(init)
    def init_and_mend(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if not hasattr(self, 'loss_cls'):
            self.loss_cls = None

    module.SSDHead.__init__ = init_and_mend


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the module as ever, and mends it once it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != NAME:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_mend(module: ModuleType) -> None:
            load(module)
            _mend(module)

        spec.loader.exec_module = load_and_mend  # type: ignore[method-assign]  # of this one
        return spec
