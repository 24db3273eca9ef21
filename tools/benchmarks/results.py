"""Keeping results as they come, so that a run that is killed leaves what it measured."""

from __future__ import annotations

import json
import os
from pathlib import Path


def save(result: list | dict, file: str | None) -> None:
    """Writes ``result`` as JSON in the place of what ``file`` holds; None is no file."""
    if file is None:
        return
    whole = Path(f'{file}.part')
    whole.write_text(json.dumps(result, indent=1) + '\n')
    os.replace(whole, file)
