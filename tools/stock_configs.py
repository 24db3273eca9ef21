"""The configs that installed packages ship, and which of a folder is the smallest that trains."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

# What names call a size, the smallest first, and what a depth or width follows.
WORDS = 'atto femto pico nano xxsmall xxs xsmall xs tiny t small s medium m base b large l'.split()
WORDS += 'xlarge x huge h giant g'.split()
DEPTH = re.compile(r'(?:^|[-_])(?:r|x|hr|w|s|m|b|l|vgg|deit-s|regnetx-|[a-z]*resnet|densenet)(\d+)')


def shipped(package: str) -> Path:
    """The folder in which a package ships its configs, at ``configs``, and its tools."""
    return Path(find_spec(package).origin).parent / '.mim'


def chosen(packages: Iterable[str], each: int = 1, only: str = '') -> Iterator[str]:
    """Those of every folder that are the smallest, ``package::folder/name.py``.

    Args:
        packages: whose configs.
        each: how many of a folder.
        only: a pattern, for `re.search` in the name.
    """
    for package in packages:
        root = shipped(package) / 'configs'
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            paths = sorted(folder.glob('*.py'), key=smallness)
            names = ((f'{package}::{path.relative_to(root)}', path) for path in paths)
            trained = (name for name, path in names if re.search(only, name) and trains(path))
            yield from itertools.islice(trained, each)


def smallness(path: Path) -> tuple:
    """By what the name says of the model's size, then by the length of the name."""
    named = [WORDS.index(word) for word in re.split('[-_]', path.stem) if word in WORDS]
    depth = DEPTH.search(path.stem)
    size = min(named, default=WORDS.index('small'))
    return size, int(depth[1]) if depth else 999, len(path.stem), path.stem


def trains(path: Path) -> bool:
    """Whether it is a config of a training run; one that cannot be read may be."""
    try:
        cfg = Config.fromfile(path)
    except Exception:  # the reason is found again, and kept
        return True
    return all(cfg.get(key) for key in ('model', 'train_dataloader', 'optim_wrapper'))
