"""The parts of `gpu_check.sh` that are not a command of their own.

python tools/gpu_parts.py card | smoke | exact | graph | hottest RESULTS
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from benchmarks.gpu import (
    BITS,
    alternate,
    captured,
    convolutions,
    gpu,
    integer_passes,
    operands,
    same,
)
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmint.backends import cuda, reference
from mmint.backends.cuda import compiler
from mmint.backends.cuda.launcher import launcher

CHANNELS, SIDE = 64, 64  # of the network in the graph


def card() -> str:
    """What there is; all kernels are compiled."""
    subprocess.run('nvidia-smi; nvcc --version', shell=True, check=False)
    device = gpu()
    print(torch.__config__.show())
    architecture, newest = launcher().architecture(device), launcher().newest()
    started = time.monotonic()
    compiler.compile_all(architecture, newest)
    return (
        f'{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}, cuDNN '
        f'{torch.backends.cudnn.version()}, Python {sys.version.split()[0]}; kernels for '
        f'{architecture} by {compiler.find_compiler(architecture, newest).name} in '
        f'{time.monotonic() - started:.0f} s'
    )


def exact() -> str:
    """A mapping, and one instruction of the tensor core, 16x32x8, against the reference."""
    device = gpu()
    a, b = torch.randn(16, 32), torch.randn(32, 8)
    mapped = [cuda.quantize(x.to(device), 8, BITS) for x in (a, b)]
    expected = [reference.quantize(x, 8, BITS) for x in (a, b)]
    for ours, theirs in zip(mapped, expected, strict=True):
        if not torch.equal(ours.mantissa.cpu(), theirs.mantissa):
            raise SystemExit('a mapping is not exact')
    if not same(cuda.matmul(*mapped).cpu(), reference.matmul(*expected)):
        raise SystemExit('a product is not exact')
    cuda.check(device)
    return 'a mapping and a 16x32x8 product are exact'


def smoke() -> str:
    """`exact` in a process of its own, which must end without a word on stderr."""
    done = subprocess.run([sys.executable, __file__, 'exact'], capture_output=True, text=True)
    print(done.stdout, done.stderr)
    if done.returncode or done.stderr:
        raise SystemExit(f'it ended with {done.returncode} and the above')
    return 'exact, and a clean end'


def network(device: torch.device) -> nn.Module:
    """The network in the graphs, in integers."""
    import mmint

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, CHANNELS, 7, 2, 3), nn.BatchNorm2d(CHANNELS), nn.ReLU(), nn.MaxPool2d(2),
        *[nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS),
                        nn.ReLU()) for _ in range(8)],
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10),
    ).to(device)  # fmt: skip
    mmint.convert(model)
    return model


def graph() -> str:
    """Evaluation and training in CUDA graphs: the same bits, and how much faster."""
    device = gpu()
    return f'evaluation: {evaluated(device)}; training: {trained(device)}'


def evaluated(device: torch.device) -> str:
    """A forward pass, and its replay."""
    model = network(device).eval()
    given, others = torch.randn(2, 2, 3, SIDE, SIDE, device=device)
    out = torch.empty(2, 10, device=device)

    def step() -> None:
        out.copy_(model(given))

    with torch.no_grad():
        step()
        replay = captured(step)
        for x in (given.clone(), others):
            given.copy_(x)
            step()
            expected = out.clone()
            out.zero_()
            replay()
            if not same(out, expected):
                raise SystemExit('a replay has other bits than the step')
        times = alternate(dict(step=step, replay=replay), 10)
    cuda.check(device)
    return f'same bits, a step {times["step"]:.2f} ms, its replay {times["replay"]:.2f} ms'


def trained(device: torch.device) -> str:
    """Training steps, two of them eager and then replays, beside eager ones."""
    import mmint

    given = torch.randn(2, 3, SIDE, SIDE, device=device)
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    sides = []
    for _ in range(2):
        mmint.begin_iteration(0)
        model = network(device)
        sides.append((model, mmint.IntSGD(model.parameters(), 0.1, momentum=0.9)))

    def step(side: int, iteration: int) -> None:
        model, optimizer = sides[side]
        mmint.begin_iteration(iteration)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(given), labels).backward()
        optimizer.step()

    for iteration in range(2):
        for side in range(2):
            step(side, iteration)
    replay = captured(lambda: step(1, 2))

    def replayed(iteration: int) -> None:
        mmint.begin_replay(iteration)
        replay()

    for iteration in range(2, 5):
        for _, optimizer in sides:
            optimizer.param_groups[0]['lr'] = 0.1 / iteration
        step(0, iteration)
        replayed(iteration)
        for a, b in zip(*(model.state_dict().values() for model, _ in sides), strict=True):
            if not torch.equal(a, b):
                raise SystemExit('a replay has other bits than the training step')
    times = alternate(dict(step=lambda: step(0, 5), replay=lambda: replayed(5)), 10)
    cuda.check(device)
    return f'same bits, a step {times["step"]:.2f} ms, its replay {times["replay"]:.2f} ms'


def hottest(results: str) -> str:
    """The kernels of the convolution that is slowest beside bf16, by their time."""
    rows = json.loads((Path(results) / 'ops.json').read_text())
    worst = min((row for row in rows if row['op'] == 'conv2d'), key=lambda r: r['times_bf16'])
    (layer,) = (layer for layer in convolutions() if str(layer) == worst['shape'])
    device = gpu()
    x, weight, grad = operands(layer, device)
    mapped = x if worst['pass'] == 'forward' else grad
    fixed = [cuda.quantize(t, 8, BITS) for t in (x, weight, grad)]
    product = integer_passes(cuda, layer.geometry, *fixed)[worst['pass']]
    product()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(5):
            cuda.quantize(mapped, 8, BITS)
            product()
        torch.cuda.synchronize()
    table = profiler.key_averages().table(sort_by='self_device_time_total', row_limit=12)
    print(table)
    return f'{worst["shape"]} {worst["pass"]}, {worst["times_bf16"]} times bf16'


def main(part: str, *arguments: str) -> None:
    """Prints what a part returns, in the end."""
    print(globals()[part](*arguments))


if __name__ == '__main__':
    main(*sys.argv[1:])
