"""Adds what became of a part of `gpu_check.sh` to its JSON file, and writes both anew as tables.

python tools/gpu_report.py FOLDER PART STATUS SECONDS
"""

import json
import os
import sys
from pathlib import Path

OUTCOMES = {'0': 'passed', '124': 'out of time', '137': 'out of time', '127': 'not installed'}
SHAPES = ['shape', 'pass', 'product_ms', 'mapping_ms', 'tops', 'times_float32', 'times_tf32',
          'times_bf16', 'exact']  # fmt: skip
TRAINING = ['config', 'batch', 'size', *(f'{kind}_{what}' for what in ('ms', 'peak_mb')
            for kind in ('int8', 'float32', 'tf32', 'bf16')), 'times_float32', 'times_tf32',
            'times_bf16']  # fmt: skip


def main(folder: str, part: str, status: str, seconds: str) -> None:
    """Reads the part's log and its own JSON file, where it has one."""
    results = Path(folder)
    table = results / 'gpu_check.json'
    rows = json.loads(table.read_text()) if table.exists() else []
    log = (results / f'{part}.log').read_text(errors='replace').strip().splitlines()
    row = dict(part=part, outcome=OUTCOMES.get(status, f'failed ({status})'), seconds=int(seconds))
    row['says'] = log[-1].strip() if log else ''
    own = results / f'{part}.json'
    if own.exists():
        row['result'] = json.loads(own.read_text())
    rows.append(row)
    write(table, json.dumps(rows, indent=1))
    write(results / 'gpu_check.md', markdown(rows))


def markdown(rows: list[dict]) -> str:
    """All parts, then the operations and the training steps."""
    text = lines(rows, ['part', 'outcome', 'seconds', 'says'])
    found = [row['result'] for row in rows if 'result' in row]
    operations = [made for result in found if isinstance(result, list) for made in result]
    training = [result for result in found if isinstance(result, dict)]
    for part, columns in ((operations, SHAPES), (training, TRAINING)):
        if part:
            text += '\n' + lines(part, columns)
    return text


def lines(rows: list[dict], columns: list[str]) -> str:
    """A table."""
    cells = [columns, ['---'] * len(columns)]
    cells += [[str(row.get(name, '')).replace('|', '/') for name in columns] for row in rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in cells)


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    whole = path.with_suffix('.part')
    whole.write_text(text)
    os.replace(whole, path)


if __name__ == '__main__':
    main(*sys.argv[1:])
