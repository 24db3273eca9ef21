"""`benchmark.py ops --device cuda`: integer kernels beside cuDNN's and cuBLAS's, on one NVIDIA GPU.

Every distinct convolution of ResNet-50 as a detector's backbone (16x3x800x1333) and as a classifier
(256x3x224x224), and square matrix products. The integer product, its mapping, and the float
operation in float32, TF32 and bf16 (the last two channels-last; cuDNN picks its fastest algorithm)
alternate; medians are compared, of calls timed by CUDA events. The host enqueues them ahead, so
that they tell what the GPU takes; `train` has the host's time in it. The ratios count the mapping
with the product: that of the input for `forward`, and half of that of the gradient for `input_grad`
and `weight_grad`, which share it; weights are mapped once, outside. TOPS are those of the product
alone, 2 operations for each multiplication. `exact` says that the result for one image, or the
whole matrix product, equals the reference backend's to the bit; it is checked outside the timing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmint.backends import Geometry, cuda, reference
from mmint.backends.cuda.launcher import launcher
from mmint.numerics import FixedPoint, RandomBits, Role

from .results import save

PASSES = ('forward', 'input_grad', 'weight_grad')
GEMM_SIZES = (1024, 2048, 4096, 8192, 16384)
FLOATS = ('float32', 'tf32', 'bf16')
BITS = RandomBits(1, 0, 2, 3, Role.INPUT)
QUICK_SECONDS = 120  # after which --quick begins no other shape
MIN_MS = 2.0  # of the calls between two events
CYCLES_A_SECOND = 2e9  # more than any card's

# Dense int8 TOPS, from NVIDIA's data sheets.
PEAKS = {
    'H200': 1979, 'H100 PCIe': 1513, 'H100': 1979, 'A100': 624, 'A40': 299, 'A10': 250,
    'L40S': 733, 'L40': 362, 'L4': 242, 'T4': 130, 'RTX 4090': 661, 'RTX 3090': 284,
}  # fmt: skip


class Convolution(NamedTuple):
    """One layer: input (images, channels, height, width), filters, kernel, stride."""

    model: str
    images: int
    channels: int
    height: int
    width: int
    filters: int
    kernel: int
    stride: int = 1

    @property
    def geometry(self) -> Geometry:
        """As the backends take it."""
        return Geometry((self.stride,) * 2, (self.kernel // 2,) * 2)

    def __str__(self) -> str:
        stride = f' /{self.stride}' if self.stride > 1 else ''
        return (
            f'{self.model} {self.channels}x{self.height}x{self.width} {self.kernel}x{self.kernel}'
            f' -> {self.filters}{stride}'
        )


def resnet50(model: str, images: int, height: int, width: int) -> list[Convolution]:
    """Its convolutions, each shape once."""
    layers = [Convolution(model, images, 3, height, width, 64, 7, 2)]
    height, width, channels = -(-height // 4), -(-width // 4), 64
    for stage in range(4):
        filters, stride = 64 << stage, 2 if stage else 1
        outer = height, width
        height, width = -(-height // stride), -(-width // stride)
        layers += [
            Convolution(model, images, channels, *outer, filters, 1),
            Convolution(model, images, filters, *outer, filters, 3, stride),
            Convolution(model, images, channels, *outer, 4 * filters, 1, stride),
            Convolution(model, images, filters, height, width, 4 * filters, 1),
            Convolution(model, images, 4 * filters, height, width, filters, 1),
            Convolution(model, images, filters, height, width, filters, 3),
        ]
        channels = 4 * filters
    return list(dict.fromkeys(layers))


def convolutions() -> list[Convolution]:
    """What is timed."""
    return resnet50('detector', 16, 800, 1333) + resnet50('classifier', 256, 224, 224)


def alternate(
    functions: dict[str, Callable[[], object]], rounds: int, queued: bool = False
) -> dict[str, float]:
    """Median milliseconds of one call of each function; they take turns.

    Of the GPU alone if ``queued``: it begins when all calls that are timed are at hand.
    """
    calls, host = {}, {}
    for name, function in functions.items():
        for _ in range(3):
            function()  # compiles, and lets cuDNN try its algorithms
        calls[name] = max(1, math.ceil(MIN_MS / _time(function, 3)))
        started = time.perf_counter()
        function()
        host[name] = time.perf_counter() - started if queued else 0.0
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(_time(function, calls[name], 1.5 * host[name] * calls[name]))
    return {name: statistics.median(taken) for name, taken in times.items()}


def captured(function: Callable[[], object]) -> Callable[[], object]:
    """``function``, which has run before, as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def _time(function: Callable[[], object], calls: int, lead: float = 0.0) -> float:
    """Milliseconds of one call; the host has a ``lead`` of so many seconds."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if lead:
        torch.cuda._sleep(round(CYCLES_A_SECOND * lead))
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 operations may use TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def in_precision(name: str, operation: Callable[..., object], *tensors: Tensor) -> Callable:
    """``operation(*tensors)`` in float32, TF32 or bf16."""
    if name == 'bf16':
        tensors = tuple(t.to(torch.bfloat16) for t in tensors)
    if name != 'float32':
        tensors = tuple(
            t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors
        )

    def run() -> None:
        with tf32(name == 'tf32'):
            operation(*tensors)

    return run


def same(actual: Tensor, expected: Tensor) -> bool:
    """Whether two float32 tensors have the same bits."""
    return torch.equal(actual.view(torch.int32), expected.contiguous().view(torch.int32))


def operands(layer: Convolution, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and the output's gradient."""
    torch.manual_seed(0)
    size = layer.images, layer.channels, layer.height, layer.width
    x = torch.randn(size, device=device).relu_()
    weight = torch.randn(layer.filters, layer.channels, *[layer.kernel] * 2, device=device)
    return x, weight, torch.randn_like(F.conv2d(x, weight, None, *layer.geometry)) * 1e-3


def integer_passes(
    backend: object, geometry: Geometry, x: FixedPoint, weight: FixedPoint, grad: FixedPoint
) -> dict[str, Callable[[], Tensor]]:
    """The three products of a convolution."""
    return {
        'forward': lambda: backend.conv2d(x, weight, geometry),
        'input_grad': lambda: backend.conv2d_input_grad(
            grad, weight, tuple(x.mantissa.shape), geometry
        ),
        'weight_grad': lambda: backend.conv2d_weight_grad(
            grad, x, tuple(weight.mantissa.shape), geometry
        ),
    }


def convolution_rows(layer: Convolution, rounds: int, device: torch.device) -> list[dict]:
    """One row for each pass."""
    geometry = layer.geometry
    x, weight, grad = operands(layer, device)
    qx, qw, qg = (cuda.quantize(t, 8, BITS) for t in (x, weight, grad))

    def backward(mask: tuple[bool, bool, bool]) -> Callable[[Tensor, Tensor, Tensor], object]:
        stride, padding, dilation, groups = geometry
        return lambda x, weight, grad: torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, dilation, False, (0, 0), groups, mask
        )

    floating = {
        'forward': lambda x, weight, grad: F.conv2d(x, weight, None, *geometry),
        'input_grad': backward((True, False, False)),
        'weight_grad': backward((False, True, False)),
    }
    one, one_grad = (q._replace(mantissa=q.mantissa[:1]) for q in (qx, qg))
    with torch.backends.cudnn.flags(enabled=False):  # float64 sums of integers, nothing cleverer
        passes = integer_passes(reference, geometry, one, qw, one_grad)
        expected = {name: run() for name, run in passes.items()}
    passes = integer_passes(cuda, geometry, one, qw, one_grad)
    exact = {name: same(run(), expected[name]) for name, run in passes.items()}
    operations = 2 * grad.numel() * weight[0].numel()
    rows = []
    for name, product in integer_passes(cuda, geometry, qx, qw, qg).items():
        mapped = x if name == 'forward' else grad
        functions = {'product': product, 'mapping': lambda t=mapped: cuda.quantize(t, 8, BITS)}
        for precision in FLOATS:
            functions[precision] = in_precision(precision, floating[name], x, weight, grad)
        times = alternate(functions, rounds, queued=True)
        share = times['mapping'] * (1 if name == 'forward' else 0.5)
        rows.append(row('conv2d', str(layer), name, times, share, operations, exact[name], device))
        del functions
    return rows


def gemm_rows(size: int, rounds: int, device: torch.device) -> list[dict]:
    """The row of a square matrix product, without mappings."""
    torch.manual_seed(0)
    a, b = (
        cuda.quantize(torch.randn(size, size, device=device), 8, BITS._replace(role=role))
        for role in (Role.INPUT, Role.OTHER)
    )
    b = b._replace(mantissa=b.mantissa.t())  # as a linear layer's weight
    exact = same(cuda.matmul(a, b), reference.matmul(a, b))
    functions = {'product': lambda: cuda.matmul(a, b)}
    operands = [torch.randn(size, size, device=device) for _ in range(2)]
    for name in FLOATS:
        functions[name] = in_precision(name, lambda a, b: a @ b.t(), *operands)
    times = alternate(functions, rounds, queued=True)
    return [row('gemm', f'{size}x{size}x{size}', 'forward', times, 0.0, 2 * size**3, exact, device)]


def row(
    op: str,
    shape: str,
    name: str,
    times: dict[str, float],
    mapping: float,
    operations: int,
    exact: bool,
    device: torch.device,
) -> dict:
    """One result as the JSON file has it."""
    tops = operations / times['product'] / 1e9
    most = peak(torch.cuda.get_device_name(device))
    int8_ms = times['product'] + mapping
    return {
        'op': op, 'shape': shape, 'pass': name, 'product_ms': round(times['product'], 4),
        'mapping_ms': round(mapping, 4), 'tops': round(tops, 1),
        'of_peak': most and round(tops / most, 3),
        **{f'{p}_ms': round(times[p], 4) for p in FLOATS},
        **{f'times_{p}': round(times[p] / int8_ms, 3) for p in FLOATS},
        'exact': exact,
    }  # fmt: skip


def peak(card: str) -> int | None:
    """Dense int8 TOPS of a card, if they are in the table."""
    return next((tops for name, tops in PEAKS.items() if name in card), None)


def show(rows: list[dict]) -> None:
    """A line for each row."""
    for made in rows:
        of_peak = '' if made['of_peak'] is None else f' ({100 * made["of_peak"]:.0f} % of peak)'
        ratios = ', '.join(f'{made[f"times_{p}"]:.2f} {p}' for p in FLOATS)
        print(
            f'{made["op"]:7}{made["shape"]:44}{made["pass"]:12}{made["product_ms"]:9.3f} ms + '
            f'mapping {made["mapping_ms"]:.3f}, {made["tops"]:7.1f} TOPS{of_peak}; times {ratios}'
            f'{"" if made["exact"] else "  NOT EXACT"}',
            flush=True,
        )


def summary(rows: list[dict]) -> None:
    """Geometric means of the ratios."""
    for op, name in [('gemm', 'forward'), *(('conv2d', name) for name in PASSES)]:
        part = [made for made in rows if made['op'] == op and made['pass'] == name]
        means = ', '.join(
            f'{statistics.geometric_mean(made[f"times_{p}"] for made in part):.2f} {p}'
            for p in FLOATS
        )
        print(f'{op} {name}: times {means} (geometric means)')
    wrong = sum(not made['exact'] for made in rows)
    print('all results are exact' if not wrong else f'{wrong} results are NOT EXACT')


def gpu() -> torch.device:
    """The GPU to be timed; cuDNN picks its fastest algorithms there."""
    if not torch.cuda.is_available():
        raise SystemExit(
            '--device cuda was given and PyTorch finds no NVIDIA GPU with a driver: run where '
            '`nvidia-smi` shows one, or use --device cpu'
        )
    torch.backends.cudnn.benchmark = True
    return torch.empty(0, device=launcher().device_type).device


def ops(args: argparse.Namespace) -> None:
    """The sub-command `ops` on a GPU."""
    device, rounds = gpu(), max(3, round(10 * args.seconds))
    layers, sizes = convolutions(), GEMM_SIZES
    if args.quick:
        layers, sizes = layers[::4], GEMM_SIZES[1:4]
    print(
        f'{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}, '
        f'cuDNN {torch.backends.cudnn.version()}'
    )
    rows, started = [], time.monotonic()
    works = [lambda s=s: gemm_rows(s, rounds, device) for s in sizes]
    works += [lambda c=c: convolution_rows(c, rounds, device) for c in layers]
    for number, work in enumerate(works):
        if args.quick and time.monotonic() - started > QUICK_SECONDS:
            print(f'{len(works) - number} of {len(works)} shapes are left out for want of time')
            break
        made = work()
        show(made)
        rows += made
        save(rows, args.json)
        cuda.check(device)
        torch.cuda.empty_cache()
    summary(rows)
