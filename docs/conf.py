"""Sphinx: `sphinx-build -W -b html docs docs/_build`."""

import tempfile
import urllib.request
from pathlib import Path

import mmint

project = 'mmint'
author = 'the mmint maintainers'
version = release = mmint.__version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.intersphinx',
]
exclude_patterns = ['_build']
default_role = 'py:obj'  # `name` in a docstring: a link where there is something to link to
myst_heading_anchors = 3

autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
napoleon_use_ivar = True

html_theme = 'furo'
html_title = f'mmint {version}'

INVENTORIES = {
    'python': 'https://docs.python.org/3/',
    'torch': 'https://docs.pytorch.org/docs/stable/',
    'mmengine': 'https://mmengine.readthedocs.io/en/latest/',
    'mmcv': 'https://mmcv.readthedocs.io/en/latest/',
    'mmdet': 'https://mmdetection.readthedocs.io/en/latest/',
}


def reachable(inventories: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What intersphinx links to: nothing where the first inventory cannot be had, as offline."""
    folder = Path(tempfile.mkdtemp())
    found = {}
    for name, url in inventories.items():
        try:
            with urllib.request.urlopen(f'{url}objects.inv', timeout=3) as answer:
                (folder / name).write_bytes(answer.read())
        except OSError:
            break
        found[name] = url, str(folder / name)
    return found


intersphinx_mapping = reachable(INVENTORIES)
