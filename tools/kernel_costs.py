"""Writes docs/kernel_costs.md: what the compiled CUDA kernels cost, counted from the machine code.

python tools/kernel_costs.py [--architecture sm_90a] [SOURCE.cu ...]

For each kernel: registers a thread, bytes of them that are spilled to memory, and of its busiest
loop (the one with the most tensor-core instructions, else the longest) how many instructions it has
on all of its paths together, and how many of them are tensor-core instructions. A test compares
what the compiler makes now with the table, where it is the table's compiler.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from mmint.backends.cuda.compiler import Nvcc
from mmint.backends.cuda.launcher import SOURCES

ARCHITECTURE = 'sm_90a'
TABLE = Path(__file__).parent.parent / 'docs' / 'kernel_costs.md'
RESOURCES = re.compile(
    r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", re.S
)
INSTRUCTION = re.compile(r'^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);', re.M)
ROW = re.compile(r'^\| (\w+\.cu) \| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$', re.M)


class Cost(NamedTuple):
    """What one kernel costs."""

    source: str
    kernel: str
    registers: int
    spilled: int
    loop: int
    tensor_core: int


def nvcc() -> Nvcc | None:
    """The compiler, if it is there; NVRTC's machine code is another."""
    path = shutil.which('nvcc')
    return Nvcc(path) if path else None


def release(compiler: Nvcc) -> str:
    """Its version, such as ``13.0``."""
    return re.search(r'release ([\d.]+)', compiler.version())[1]


def disassembler() -> str | None:
    """The path of cuobjdump: of the CUDA toolkit, or of the Triton that PyTorch brings."""
    found = shutil.which('cuobjdump')
    triton = find_spec('triton')
    if found is None and triton is not None:
        inside = Path(triton.origin).parent / 'backends/nvidia/bin/cuobjdump'
        found = str(inside) if inside.exists() else None
    return found


def costs(source: Path, architecture: str = ARCHITECTURE) -> list[Cost]:
    """Of the kernels of a source file, in its order."""
    compiled = nvcc().compile(source, architecture)
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.cubin)
        file.flush()
        command = [disassembler(), '-sass', file.name]
        code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    resources = {
        name: (int(registers), int(spilled))
        for name, spilled, registers in RESOURCES.findall(compiled.report)
    }
    found = []
    for text in code.split('Function : ')[1:]:
        name = text.split()[0]
        if name in resources:
            found.append(Cost(source.name, name, *resources[name], *busiest_loop(text)))
    return sorted(found, key=lambda cost: cost.kernel)


def busiest_loop(code: str) -> tuple[int, int]:
    """Instructions, and tensor-core instructions, of a kernel's busiest loop."""
    instructions = [(int(address, 16), text) for address, text in INSTRUCTION.findall(code)]
    jumps = []
    for address, text in instructions:
        target = re.search(r'BRA\S* .*?(0x[0-9a-f]+)', text)
        if target and int(target[1], 16) < address:
            jumps.append((int(target[1], 16), address))
    loops: list[tuple[int, int]] = []
    for start, end in sorted(jumps):  # paths of one loop overlap
        if loops and start <= loops[-1][1]:
            loops[-1] = loops[-1][0], max(end, loops[-1][1])
        else:
            loops.append((start, end))
    counted = []
    for start, end in loops:
        body = [text for address, text in instructions if start <= address <= end]
        counted.append((sum('MMA.' in text for text in body), len(body)))
    tensor_core, length = max(counted, default=(0, 0))
    return length, tensor_core


def write(rows: list[Cost], compiler: str, architecture: str) -> None:
    """Writes the table."""
    lines = [
        '# What the CUDA kernels cost',
        '',
        f'Counted from what nvcc {compiler} makes for {architecture}, by '
        '`python tools/kernel_costs.py`; a test watches that none gets dearer unnoticed. The loop '
        'is the busiest of a kernel, with the instructions of all of its paths together, of which '
        'one pass takes some.',
        '',
        '| source | kernel | registers | spilled bytes | loop | tensor core |',
        '|---|---|---:|---:|---:|---:|',
        *('| ' + ' | '.join(map(str, row)) + ' |' for row in rows),
    ]
    TABLE.write_text('\n'.join(lines) + '\n')


def table() -> tuple[str, list[Cost]]:
    """The compiler's version, and the rows, of docs/kernel_costs.md."""
    text = TABLE.read_text()
    rows = [Cost(*row[:2], *map(int, row[2:])) for row in ROW.findall(text)]
    return re.search(r'nvcc ([\d.]+)', text)[1], rows


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('sources', nargs='*', type=Path)
    parser.add_argument('--architecture', default=ARCHITECTURE)
    args = parser.parse_args()
    if nvcc() is None or disassembler() is None:
        raise SystemExit(
            'nvcc or cuobjdump is missing, both are needed to count instructions: put the bin '
            'folder of a CUDA toolkit on the PATH'
        )
    sources = args.sources or sorted(SOURCES.glob('*.cu'))
    with ThreadPoolExecutor() as pool:
        rows = [
            row for made in pool.map(lambda s: costs(s, args.architecture), sources) for row in made
        ]
    for row in rows:
        print(*row, flush=True)
    if not args.sources:
        write(rows, release(nvcc()), args.architecture)


if __name__ == '__main__':
    main()
