"""`benchmark.py ops`: integer kernels beside PyTorch's float32 ones, in one run, on this machine.

`ops` takes every distinct convolution of ResNet-50 at 2x3x320x320, of SSD300 with VGG-16 at
2x3x300x300, of DeepLab (ResNet-101 stages dilated by 2 and 4, and ASPP with rates 6 to 36) at
2x3x256x256, of MobileNetV2 at 2x3x224x224 (and 5 x 5 depthwise ones) and of RetinaNet's heads on
2x3x320x320, the linear layers of ViT-B on two images of 197 patches, and square matrix products.
The integer and the float operation alternate, and medians are compared. Convolutions and linear
layers include the mapping: `forward` maps its input, `input_grad` and `weight_grad` share one
mapped gradient, so that half of its time is counted with each; weights are mapped once, outside.
Matrix products do not include it, and are also compared with ONNX Runtime's `MatMulInteger`
(u8 x u8, the exact one) where onnxruntime is installed. Exponents are free, as in training. `exact`
says that the result equals the reference backend's to the bit; it is checked outside the timing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from mmint.backends import cpu, reference
from mmint.numerics import FixedPoint, RandomBits, Role
from mmint.ops.matmul import transposed

from .machine import machine
from .results import save
from .shapes import (
    LINEAR_ROWS,
    LINEAR_SIZES,
    Convolution,
    deeplab,
    distinct,
    mobilenet,
    resnet,
    retinanet_heads,
    vgg_ssd,
)

PASSES = ('forward', 'input_grad', 'weight_grad')
GEMM_SIZES = (256, 512, 1024, 1536, 2048)


def alternate(
    functions: list[Callable[[], object]], seconds: float, least: int = 5, most: int = 200
) -> list[float]:
    """Median milliseconds of functions that take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    end = time.perf_counter() + seconds
    while len(times[0]) < least or (time.perf_counter() < end and len(times[0]) < most):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(t) for t in times]


def same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two float32 tensors have the same bits."""
    return torch.equal(actual.view(torch.int32), expected.contiguous().view(torch.int32))


def convolution_rows(layer: Convolution, thread_counts: list[int], seconds: float) -> list[dict]:
    """One row for each thread count and pass."""
    torch.manual_seed(0)
    geometry = layer.geometry
    stride, padding, dilation, groups = geometry
    x = torch.randn(2, layer.channels, layer.size, layer.size).relu_()
    weight = torch.randn(layer.filters, layer.channels // groups, layer.kernel, layer.kernel)
    grad = torch.randn_like(F.conv2d(x, weight, None, *geometry)) * 1e-3
    bits = RandomBits(1, 0, 2, 3, Role.INPUT)
    free = (1, groups, 1, 1) if groups > 1 else ()

    def mapped_image(image: torch.Tensor) -> FixedPoint:
        if groups == 1:
            return cpu.quantize(image, 8, bits)
        mantissa, exponent, _ = cpu.quantize(image.flatten(2), 8, bits, exponents=(1, groups, 1))
        return FixedPoint(mantissa.view(image.shape), exponent.view(1, groups, 1, 1), 8)

    qx, qg = mapped_image(x), mapped_image(grad)
    qw = cpu.quantize(weight, 8, bits, exponents=(layer.filters, 1, 1, 1))
    back = qw if groups > 1 else cpu.quantize(weight, 8, bits, exponents=(1, layer.channels, 1, 1))
    exact = {
        'forward': same(cpu.conv2d(qx, qw, geometry), reference.conv2d(qx, qw, geometry)),
        'input_grad': same(
            cpu.conv2d_input_grad(qg, back, x.shape, geometry),
            reference.conv2d_input_grad(qg, back, x.shape, geometry),
        ),
        'weight_grad': same(
            cpu.conv2d_weight_grad(qg, qx, weight.shape, geometry),
            reference.conv2d_weight_grad(qg, qx, weight.shape, geometry),
        ),
    }
    for tensor, mapped in ((x, qx), (grad, qg)):
        expected = reference.quantize(tensor, 8, bits, exponents=free)
        if not torch.equal(mapped.mantissa, expected.mantissa):
            exact = dict.fromkeys(exact, False)

    def backward(mask: tuple[bool, bool, bool]) -> Callable[[], object]:
        return lambda: torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, dilation, False, (0, 0), groups, mask
        )

    integer = {
        'forward': lambda: cpu.conv2d(mapped_image(x), qw, geometry),
        'input_grad': lambda: cpu.conv2d_input_grad(qg, back, x.shape, geometry),
        'weight_grad': lambda: cpu.conv2d_weight_grad(qg, qx, weight.shape, geometry),
    }
    floating = {
        'forward': lambda: F.conv2d(x, weight, None, *geometry),
        'input_grad': backward((True, False, False)),
        'weight_grad': backward((False, True, False)),
    }
    shape = f'{layer.model} {layer}'
    mapping = partial(mapped_image, grad)
    return layer_rows('conv2d', shape, integer, floating, mapping, exact, thread_counts, seconds)


def layer_rows(
    op: str,
    shape: str,
    integer: dict[str, Callable[[], object]],
    floating: dict[str, Callable[[], object]],
    mapping: Callable[[], object],
    exact: dict[str, bool],
    thread_counts: list[int],
    seconds: float,
) -> list[dict]:
    """One row for each thread count and pass; ``mapping`` maps the gradient, for two passes."""
    rows = []
    for threads in thread_counts:
        torch.set_num_threads(threads)
        (mapping_ms,) = alternate([mapping], seconds / 4)
        for name in PASSES:
            int8_ms, float_ms = alternate([integer[name], floating[name]], seconds)
            if name != 'forward':
                int8_ms += mapping_ms / 2
            rows.append(row(op, shape, name, threads, int8_ms, float_ms, exact[name]))
    return rows


def linear_rows(inputs: int, outputs: int, thread_counts: list[int], seconds: float) -> list[dict]:
    """One row for each thread count and pass."""
    torch.manual_seed(0)
    x, weight = torch.randn(LINEAR_ROWS, inputs), torch.randn(outputs, inputs)
    grad = torch.randn(LINEAR_ROWS, outputs) * 1e-3
    bits = RandomBits(1, 0, 2, 3, Role.INPUT)
    qx, qg = cpu.quantize(x, 8, bits), cpu.quantize(grad, 8, bits)
    qw = transposed(cpu.quantize(weight, 8, bits, exponents=(outputs, 1)))
    back = cpu.quantize(weight, 8, bits, exponents=(1, inputs))
    operands = {'forward': (qx, qw), 'input_grad': (qg, back), 'weight_grad': (transposed(qg), qx)}
    exact = {
        name: same(cpu.matmul(*pair), reference.matmul(*pair)) for name, pair in operands.items()
    }
    integer = {
        'forward': lambda: cpu.matmul(cpu.quantize(x, 8, bits), qw),
        'input_grad': lambda: cpu.matmul(*operands['input_grad']),
        'weight_grad': lambda: cpu.matmul(*operands['weight_grad']),
    }
    floating = {
        'forward': lambda: F.linear(x, weight),
        'input_grad': lambda: grad @ weight,
        'weight_grad': lambda: grad.t() @ x,
    }
    mapping = partial(cpu.quantize, grad, 8, bits)
    shape = f'ViT-B {LINEAR_ROWS}x{inputs} -> {outputs}'
    return layer_rows('linear', shape, integer, floating, mapping, exact, thread_counts, seconds)


def gemm_rows(size: int, thread_counts: list[int], seconds: float) -> list[dict]:
    """One row for each thread count."""
    torch.manual_seed(0)
    a8, b8 = (torch.randint(-127, 128, (size, size), dtype=torch.int8) for _ in range(2))
    a, b = (FixedPoint(t, torch.tensor(-7, dtype=torch.int32), 8) for t in (a8, b8))
    a32, b32 = torch.randn(size, size), torch.randn(size, size)
    exact = same(cpu.matmul(a, b), reference.matmul(a, b))
    rows = []
    for threads in thread_counts:
        torch.set_num_threads(threads)
        functions = [lambda: cpu.matmul(a, b), lambda: a32 @ b32]
        int8_ms, float_ms = alternate(functions, seconds)
        made = row('gemm', f'{size}x{size}x{size}', 'forward', threads, int8_ms, float_ms, exact)
        session = onnx_matmul(size, threads)
        if session:  # on its own: its threads spin after each call, beside whatever comes next
            u8 = [(t.to(torch.int16) + 128).to(torch.uint8).numpy() for t in (a8, b8)]
            inputs = dict(zip('ab', u8, strict=True))
            (onnx_ms,) = alternate([lambda s=session, i=inputs: s.run(None, i)], seconds)
            made['onnxruntime_ms'] = round(onnx_ms, 4)
            del session
        rows.append(made)
    return rows


def onnx_matmul(size: int, threads: int) -> object | None:
    """A session of ONNX Runtime with one `MatMulInteger` of u8 by u8, zero points 128."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper
    except ImportError:
        print("no comparison with ONNX Runtime: pip install '.[benchmark]' brings it")
        return None
    matrix = [size, size]
    zero = [helper.make_tensor(n, TensorProto.UINT8, [], [128]) for n in ('za', 'zb')]
    graph = helper.make_graph(
        [helper.make_node('MatMulInteger', ['a', 'b', 'za', 'zb'], ['c'])],
        'g',
        [helper.make_tensor_value_info(n, TensorProto.UINT8, matrix) for n in ('a', 'b')],
        [helper.make_tensor_value_info('c', TensorProto.INT32, matrix)],
        zero,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )


def row(
    op: str, shape: str, name: str, threads: int, int8_ms: float, float_ms: float, exact: bool
) -> dict:
    """One result as the JSON file has it."""
    return {
        'op': op, 'shape': shape, 'pass': name, 'threads': threads, 'int8_ms': round(int8_ms, 4),
        'float_ms': round(float_ms, 4), 'ratio': round(float_ms / int8_ms, 3), 'exact': exact,
    }  # fmt: skip


def mean(ratios: list[float]) -> float:
    """Geometric mean."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan


def show(rows: list[dict]) -> None:
    """A line for each shape and thread count, then the geometric means."""
    for made in rows:
        onnx = f'  ONNX Runtime {made["onnxruntime_ms"]:.2f}' if 'onnxruntime_ms' in made else ''
        print(
            f'{made["op"]:7}{made["shape"]:48}{made["pass"]:12}{made["threads"]:2} threads '
            f'{made["int8_ms"]:9.2f} ms, float {made["float_ms"]:9.2f} ms, {made["ratio"]:5.2f} '
            f'times as fast{"" if made["exact"] else "  NOT EXACT"}{onnx}',
            flush=True,
        )


def summary(rows: list[dict]) -> None:
    """Geometric means and the slowest."""
    for threads in sorted({made['threads'] for made in rows}):
        for op in ('gemm', 'linear', 'conv2d'):
            part = [r for r in rows if r['threads'] == threads and r['op'] == op]
            if not part:
                continue
            line = f'{op}, {threads} threads: {mean([r["ratio"] for r in part]):.2f} times float'
            if op != 'gemm':
                for name in PASSES:
                    ratios = [r['ratio'] for r in part if r['pass'] == name]
                    line += f', {name} {mean(ratios):.2f}'
                by_model = sorted({r['shape'].split()[0] for r in part})
                for model in by_model:
                    ratios = [r['ratio'] for r in part if r['shape'].startswith(model)]
                    line += f', {model} {mean(ratios):.2f}'
            else:
                onnx = [r['onnxruntime_ms'] / r['int8_ms'] for r in part if 'onnxruntime_ms' in r]
                if onnx:
                    line += f', {mean(onnx):.2f} times ONNX Runtime'
            slowest = min(part, key=lambda r: r['ratio'])
            below = sum(r['ratio'] < 0.9 for r in part)
            print(f'{line}; lowest {slowest["ratio"]:.2f} ({slowest["shape"]} {slowest["pass"]}), '
                  f'{below} of {len(part)} below 0.9')  # fmt: skip
    wrong = sum(not made['exact'] for made in rows)
    print('all results are exact' if not wrong else f'{wrong} results are NOT EXACT')


def ops(args: argparse.Namespace) -> None:
    """The sub-command `ops`."""
    threads = [int(t) for t in args.threads.split(',')]
    layers = distinct(resnet(320) + vgg_ssd() + deeplab() + mobilenet() + retinanet_heads())
    sizes, linear_sizes = GEMM_SIZES, LINEAR_SIZES
    if args.quick:
        layers, sizes, linear_sizes = layers[::4], GEMM_SIZES[:3], LINEAR_SIZES[:1]
    print(machine())
    rows = []
    for work in (
        [lambda s=s: gemm_rows(s, threads, args.seconds) for s in sizes]
        + [lambda s=s: linear_rows(*s, threads, args.seconds) for s in linear_sizes]
        + [lambda c=c: convolution_rows(c, threads, args.seconds) for c in layers]
    ):
        made = work()
        show(made)
        rows += made
        save(rows, args.json)
    summary(rows)
