"""Times integer arithmetic beside float32, in turn, in one run, on this machine.

python tools/benchmark.py ops [--threads 1,2] [--quick] [--json FILE]
python tools/benchmark.py ops --device cuda [--quick] [--json FILE]
python tools/benchmark.py norms [--threads 1,2] [--quick] [--json FILE]
python tools/benchmark.py train --config CONFIG [--device cuda] [--json FILE]
python tools/benchmark.py families [--only NAME...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest='command', required=True)
    layers = (
        ('ops', ops, 'convolutions and matrix products'),
        ('norms', norms, 'norms, additions, pooling, interpolation and blocks'),
    )
    for name, function, text in layers:
        command = commands.add_parser(name, help=text)
        command.add_argument('--json', metavar='FILE', help='write the results here')
        command.add_argument('--threads', default='1,2', help='thread counts, comma-separated')
        command.add_argument('--quick', action='store_true', help='fewer shapes')
        command.add_argument('--seconds', type=float, default=1.0, help='for each comparison')
        if name == 'ops':
            command.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
        command.set_defaults(run=function)
    command = commands.add_parser('train', help='whole training steps of a config')
    command.add_argument('--config', required=True, help='a file, or package::path')
    command.add_argument('--json', metavar='FILE', help='write the results here')
    command.add_argument('--batch', type=int, default=2, help='images')
    command.add_argument(
        '--size', type=int, nargs=2, help="height and width (default: 320 320, or mmpretrain's own)"
    )
    command.add_argument('--repeats', type=int, default=5, help='steps of each kind')
    command.add_argument('--threads', type=int, default=2)
    command.add_argument('--bits', type=int, default=8)
    command.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    command.set_defaults(run=train)
    command = commands.add_parser('families', help='whole training steps of twenty models')
    command.add_argument('--json', metavar='FILE', help='write the results here')
    command.add_argument('--only', nargs='+', metavar='NAME', help='some of them')
    command.add_argument('--seconds', type=float, default=5.0, help='for each comparison')
    command.set_defaults(run=families)
    args = parser.parse_args()
    from mmint.backends.cpu.memory import keep_freed_memory

    keep_freed_memory()
    args.run(args)


def ops(args: argparse.Namespace) -> None:
    """Convolutions and matrix products."""
    if args.device == 'cuda':
        from benchmarks.gpu import ops as run
    else:
        from benchmarks.ops import ops as run

    run(args)


def norms(args: argparse.Namespace) -> None:
    """Norms, additions, pooling, interpolation and blocks."""
    from benchmarks.norms import norms as run

    run(args)


def train(args: argparse.Namespace) -> None:
    """Training steps."""
    from benchmarks.train import run

    result = run(
        args.config,
        args.batch,
        args.size and tuple(args.size),
        args.repeats,
        args.threads,
        args.bits,
        args.device,
        args.json,
    )
    print(json.dumps(result, indent=2))


def families(args: argparse.Namespace) -> None:
    """Training steps of twenty models."""
    from benchmarks.families import families as run

    run(args)


if __name__ == '__main__':
    main()
