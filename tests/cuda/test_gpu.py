"""On an NVIDIA GPU: operations of layers' sizes against the reference, streams, graphs, devices.

`python -m pytest -m gpu`, which also runs test_cuda_norms.py and test_cuda_training.py there.
"""

import itertools
import math
import random as rng

import pytest
import torch
import torch.nn.functional as F
from comparison import (
    BITS,
    EPS,
    GPU,
    ON_GPU,
    Comparison,
    adaptive,
    any_float32,
    assert_same,
    assert_same_fixed_point,
    grid,
    mantissas,
    moved,
    several_mappings,
    windows_of,
)
from torch import nn

import mmint
from mmint.backends import Geometry, NonFiniteError, Pooling, Update, backend_for, cuda, reference
from mmint.backends.cuda import finite
from mmint.backends.errors import naming
from mmint.ops.run import current_run

pytestmark = ON_GPU
check = Comparison(cuda, torch.Tensor, GPU)


@pytest.fixture(autouse=True)
def fresh():
    """A fixed seed, and nothing left over for `check`."""
    torch.manual_seed(0)
    yield
    finite.forget(GPU)


def on_gpu(x):
    return moved(x, GPU)


def test_the_device_picks_the_backend():
    assert backend_for(GPU) is cuda


# ---- mapping ----


@pytest.mark.parametrize('bits', [4, 8, 9, 16])
@pytest.mark.parametrize('random', [None, BITS])
def test_quantize(bits, random):
    shapes = [(), (0,), (1,), (63,), (65,), (70_001,), (3_000_001,), (3, 0, 2, 2), (2, 1, 5, 5),
              (64, 1, 1, 1), (2, 33, 16, 9), (1, 31, 1, 129), (2, 70, 47, 50), (4, 256, 64, 64),
              (512, 512, 3, 3)]  # fmt: skip
    for shape in shapes:
        for x in (torch.randn(shape), torch.randn(shape) * 1e-41, any_float32(shape)):
            actual = cuda.quantize(on_gpu(x), bits, random)
            assert_same_fixed_point(actual, reference.quantize(x, bits, random))
    cuda.check(GPU)


def test_quantize_any_memory_layout():
    x = torch.randn(2, 6, 10, 9)
    views = [
        x.to(memory_format=torch.channels_last), x.transpose(1, 3), x[:, ::2], x[..., 1:-1],
        x[0].expand(3, 6, 10, 9), x.flatten()[::3], x.flatten()[1:], x.permute(3, 2, 1, 0),
    ]  # fmt: skip
    for view in views:
        expected = reference.quantize(view, 8, BITS)
        assert_same_fixed_point(cuda.quantize(on_gpu(view), 8, BITS), expected)


def test_several_tensors_are_mapped_at_once():
    mappings = list(several_mappings(GPU))
    for m, actual in zip(mappings, cuda.quantize_all(mappings), strict=True):
        expected = reference.quantize(m.x.cpu(), m.bits, m.random, None, m.exponents)
        assert_same_fixed_point(actual, expected)
    cuda.check(GPU)


@pytest.mark.parametrize('dtype', [torch.int8, torch.int16, torch.int32, torch.int64])
def test_dequantize(dtype):
    info = torch.iinfo(dtype)
    x = torch.randint(max(info.min, -(2**62) + 1), min(info.max, 2**62 - 1), (100_003,))
    x = (x >> torch.randint(0, info.bits, x.shape)).to(dtype)
    for exponent in (-400, -180, -155, -149, -140, -127, -126, -60, 0, 60, 96, 97, 110, 300):
        check.same('dequantize', x, exponent)
    check.same('dequantize', x, torch.tensor(-3, dtype=torch.int32))


@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan])
def test_not_finite_values_are_reported_once_an_iteration(value):
    x = torch.randn(2, 5, 40, 70)
    x[1, 4, 39, 69] = value
    for number, given in enumerate((torch.randn(9), x, x)):
        with naming(lambda number=number: NonFiniteError(f'tensor {number}')):
            cuda.quantize(on_gpu(given), 8, BITS)
    with pytest.raises(NonFiniteError, match='tensor 1'):
        cuda.check(GPU)
    cuda.check(GPU)


# ---- products ----


def check_convolution(geometry, x_shape, weight_shape, bits, exponent=-9, bias_scale=1.0, **how):
    """Forward, input gradient and weight gradient, with and without bias."""
    out = [
        (x_shape[2 + i] + 2 * geometry.padding[i] - geometry.dilation[i] * (weight_shape[2 + i] - 1)
         - 1) // geometry.stride[i] + 1
        for i in (0, 1)
    ]  # fmt: skip
    x, weight = (
        mantissas(x_shape, bits[0], exponent, **how),
        mantissas(weight_shape, bits[1], **how),
    )
    grad = mantissas((x_shape[0], weight_shape[0], *out), bits[0], exponent, **how)
    for scale, random in ((None, None), (bias_scale, None), (bias_scale, BITS)):
        bias = None if scale is None else torch.randn(weight_shape[0]) * scale
        check.same('conv2d', x, weight, geometry, bias, random)
        bias = None if scale is None else torch.randn(x_shape[1]) * scale
        check.same('conv2d_input_grad', grad, weight, x_shape, geometry, bias, random)
    check.same('conv2d_weight_grad', grad, x, weight_shape, geometry)


LAYERS = [  # x, weight, geometry
    ((2, 64, 56, 56), (64, 64, 3, 3), Geometry(padding=(1, 1))),
    ((2, 256, 28, 28), (128, 256, 1, 1), Geometry()),
    ((2, 3, 97, 129), (64, 3, 7, 7), Geometry((2, 2), (3, 3))),
    ((1, 256, 14, 14), (256, 256, 3, 3), Geometry((2, 2), (1, 1))),
    ((1, 48, 33, 33), (20, 48, 3, 3), Geometry(padding=(6, 6), dilation=(6, 6))),
    ((1, 64, 28, 28), (64, 2, 3, 3), Geometry(padding=(1, 1), groups=32)),
    ((2, 35, 28, 28), (35, 1, 3, 3), Geometry((2, 2), (1, 1), groups=35)),
    ((2, 16, 14, 14), (32, 1, 3, 3), Geometry(padding=(1, 1), groups=16)),
    ((2, 600, 7, 9), (33, 600, 1, 1), Geometry()),
    ((5, 30, 3, 3), (40, 30, 3, 3), Geometry()),
]


@pytest.mark.parametrize('x, weight, geometry', LAYERS)
@pytest.mark.parametrize('bits', [(8, 8), (16, 16), (4, 8)])
def test_convolution_of_layers(x, weight, geometry, bits):
    check_convolution(geometry, x, weight, bits)


@pytest.mark.parametrize('seed', range(40))
def test_convolution(seed):
    torch.manual_seed(seed)
    pick = rng.Random(seed)
    groups = pick.choice([1, 1, 1, 2, 3])
    kernel = pick.choice([(1, 1), (3, 3), (3, 3), (1, 3), (2, 2), (5, 4), (7, 7)])
    dilation = pick.choice([(1, 1), (1, 1), (2, 2), (3, 1), (6, 6)])
    padding = pick.randint(0, 3), pick.randint(0, 6)
    stride = pick.choice([(1, 1), (1, 1), (2, 2), (1, 2), (3, 2)])
    channels = groups * pick.choice([1, 2, 3, 4, 7, 8, 16, 17, 33, 70])
    filters = groups * pick.choice([1, 2, 5, 7, 12, 16, 31, 64, 67])
    size = [
        max(pick.randint(1, 23), dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i]) for i in (0, 1)
    ]
    bits = pick.choice([(8, 8), (8, 8), (4, 4), (7, 5), (12, 12), (16, 16), (16, 8)])
    check_convolution(
        Geometry(stride, padding, dilation, groups),
        (pick.randint(1, 3), channels, *size),
        (filters, channels // groups, *kernel),
        bits,
    )


@pytest.mark.parametrize('exponent', [-200, -80, -70, -63, 47, 49, 100])
@pytest.mark.parametrize('bias_scale', [0.0, 1e-38, 1.0, 1e30])
def test_convolution_exponents(exponent, bias_scale):
    """Subnormal results, overflow to infinity, a bias far above or below the sums."""
    check_convolution(Geometry(), (2, 5, 6, 7), (7, 5, 3, 3), (8, 8), exponent, bias_scale)


def test_sums_longer_than_int32_holds():
    check_convolution(Geometry(), (2, 16, 302, 300), (16, 16, 3, 3), (8, 8), extreme=True)
    check_convolution(Geometry(), (1, 15_000, 3, 3), (2, 15_000, 3, 3), (8, 8), extreme=True)
    a, b = mantissas((2, 300_001), 8, extreme=True), mantissas((300_001, 3), 8, extreme=True)
    check.same('matmul', a, b)


@pytest.mark.parametrize('bits', [(8, 8), (4, 8), (12, 12), (16, 16), (8, 16)])
def test_matmul(bits):
    """Matrices as they come and transposed in memory."""
    sizes = [(1, 1, 1), (7, 33, 17), (64, 64, 64), (130, 1030, 50), (512, 2048, 1000), (1, 300, 70),
             (0, 4, 4), (4, 0, 3)]  # fmt: skip
    for (m, k, n), turn_a, turn_b in itertools.product(sizes, (False, True), (False, True)):
        a, b = mantissas((m, k), bits[0]), mantissas((k, n), bits[1])
        a, b = (
            x._replace(mantissa=x.mantissa.t().contiguous().t()) if turn else x
            for x, turn in ((a, turn_a), (b, turn_b))
        )
        for bias, random in ((None, None), (torch.randn(n), BITS)):
            check.same('matmul', a, b, bias, random)


@pytest.mark.parametrize('bits', [8, 16])
def test_channel_sum(bits):
    for shape, dim in (((2, 5, 70, 90), 1), ((300, 40), -1), ((40,), 0), ((0, 3), 1),
                       ((2, 3, 4), 0), ((400_000, 3), 1)):  # fmt: skip
        x = mantissas(shape, bits, extreme=shape[0] == 400_000)
        check.same('channel_sum', x, dim)


# ---- exact layers and the update ----


def test_relu():
    for shape in ((0,), (1,), (31,), (1_000_001,), (3, 5, 70, 11)):
        x, grad = torch.randn(shape), torch.randn(shape)
        x.view(-1)[::7] = -0.0
        expected, positive = reference.relu(x.clone(), inplace=False)
        for inplace in (False, True):
            actual, actual_positive = cuda.relu(on_gpu(x), inplace)
            assert_same(actual, expected)
            assert torch.equal(actual_positive.cpu(), positive)
        check.same('relu_grad', grad, positive)


@pytest.mark.parametrize('ceil_mode', [False, True])
def test_max_pooling(ceil_mode):
    for kernel, stride, padding in (((3, 3), (2, 2), (1, 1)), ((2, 2), (2, 2), (0, 0)),
                                    ((3, 2), (1, 3), (1, 0))):  # fmt: skip
        pooling = Pooling(kernel, stride, padding, ceil_mode)
        x = torch.randint(-3, 3, (2, 30, 41, 50)).float()
        expected, place = check.same('max_pool2d', x, pooling)
        check.same('max_pool2d_grad', torch.randn(expected.shape), place, x.shape, pooling)


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd(bits, nesterov):
    for numel, scale in itertools.product((0, 1, 65, 16_384, 300_001), (1.0, 1e-6, 1e6, 0.0)):
        start = torch.randn(numel)
        params, buffers = [start.to(GPU), start.clone()], [None, None]
        for step in range(3):
            grad = torch.randn(numel) * scale
            random = BITS._replace(iteration=step)
            buffers = [
                backend.sgd_step([
                    Update(param, grad.to(param.device), buffer, bits, 0.1, 0.9, 1e-3, nesterov,
                           random)
                ])[0]
                for backend, param, buffer in zip((cuda, reference), params, buffers, strict=True)
            ]  # fmt: skip
            assert_same(*params)
            assert_same_fixed_point(*buffers)


# ---- norms, additions, average pooling ----

IMAGES = (2, 256, 100, 168)
TOKENS = (3152, 768)


def test_norms_of_layers():
    check.batch_norm_without_parameters(mantissas(IMAGES), mantissas(IMAGES))
    size = IMAGES[0], IMAGES[1] // 4, *(n // 2 for n in IMAGES[2:])
    x, grad = mantissas(size), mantissas(size)
    check.batch_norm(x, grad)
    check.frozen_norm(x, grad)
    sums = reference.plane_sums(x).view(2, size[0], 32, -1).sum(3)
    products, weight = reference.plane_products(grad, x), torch.randn(size[1])
    check.same('group_norm', x, sums, weight, None, EPS)
    check.same('group_norm_grad', grad, x, sums, products, weight, EPS)
    check.layer_norm(mantissas(TOKENS), mantissas(TOKENS), *torch.randn(2, TOKENS[1]))


@pytest.mark.parametrize('random', [None, BITS])
def test_addition_of_layers(random):
    check.addition(torch.randn(IMAGES), torch.randn(IMAGES) / 3, 16, random)


def test_average_pooling_of_layers():
    height, width = IMAGES[2:]
    for rows, columns in (
        (adaptive(height, 1), adaptive(width, 1)),
        (windows_of(height, 2, 2, 0, True), windows_of(width, 2, 2, 0, True)),
        (windows_of(height, 3, 2, 1), windows_of(width, 3, 2, 1)),
    ):
        grad = mantissas((*IMAGES[:2], len(rows[0]), len(columns[0])))
        check.pooling(mantissas(IMAGES), grad, grid(rows, columns))


# ---- streams, graphs, devices ----


def test_kernels_run_in_the_order_of_the_current_stream():
    """On another stream, behind work that takes a while."""
    x = torch.randn(4_000_000)
    given, stream = x.to(GPU), torch.cuda.Stream(GPU)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(1000):
            given *= -1
        fixed = cuda.quantize(given, 8, BITS)
        given.zero_()
    stream.synchronize()
    assert_same_fixed_point(fixed, reference.quantize(x, 8, BITS))


def test_kernels_can_be_captured_in_a_graph():
    """The captured kernels see what is in their input when the graph is replayed."""
    weight, windows = mantissas((8, 16, 3, 3)), grid(adaptive(18, 3), adaptive(18, 2))

    def compute(backend, x, weight):
        convolved = backend.conv2d(backend.quantize(x, 8, None), weight, Geometry())
        return backend.avg_pool2d(backend.quantize(convolved, 8, None), windows)

    given, on_device = torch.randn(2, 16, 20, 20, device=GPU), on_gpu(weight)
    compute(cuda, given, on_device)  # compiles, loads, and makes the tables of windows
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = compute(cuda, given, on_device)
    x = torch.randn(2, 16, 20, 20)
    given.copy_(x)
    graph.replay()
    assert_same(out, compute(reference, x, weight))
    cuda.check(GPU)


def test_training_steps_can_be_captured_in_a_graph(fresh_run):
    """Replays have the bits of eager steps, with a learning rate that changes."""

    def training():
        current_run.begin_iteration(0)
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, 2, 1), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10),
        ).to(GPU)  # fmt: skip
        mmint.convert(model)
        return model, mmint.IntSGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)

    def step(model, optimizer, iteration):
        mmint.begin_iteration(iteration)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    images = torch.empty(4, 3, 24, 24, device=GPU)
    labels = torch.arange(4, device=GPU)
    eager, replayed = training(), training()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(GPU)
    for iteration in range(7):
        images.copy_(torch.randn(images.shape))
        for _, optimizer in (eager, replayed):
            optimizer.param_groups[0]['lr'] = 0.1 / (1 + iteration)
        step(*eager, iteration)
        if iteration == 2:
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                step(*replayed, iteration)
        if iteration in (0, 1, 5):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                step(*replayed, iteration)
            torch.cuda.current_stream().wait_stream(stream)
        else:
            mmint.begin_replay(iteration)
            graph.replay()
        for one, other in zip(
            *(model.state_dict().values() for model, _ in (eager, replayed)), strict=True
        ):
            assert torch.equal(one, other)
        assert eager[1].steps == replayed[1].steps == iteration + 1
    cuda.check(GPU)


def test_a_graph_that_would_repeat_its_random_bits_is_refused_and_the_capture_goes_on(fresh_run):
    given = torch.randn(2, 16, 20, 20, device=GPU)
    cuda.quantize(given, 8, BITS)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        with pytest.raises(RuntimeError, match='same random bits: call mmint.begin_iteration'):
            cuda.quantize(given, 8, BITS)
        fixed = cuda.quantize(given, 8, None)
    graph.replay()
    assert_same_fixed_point(fixed, reference.quantize(given.cpu(), 8, None))
    cuda.check(GPU)


def test_several_gpus_in_one_process():
    if torch.cuda.device_count() < 2:
        pytest.skip('there is one GPU')
    x = torch.randn(2, 16, 20, 20)
    expected = reference.quantize(x, 8, BITS)
    for device in ('cuda:1', 'cuda:0', 'cuda:1'):
        assert_same_fixed_point(cuda.quantize(x.to(device), 8, BITS), expected)
    with pytest.raises(ValueError, match='move them with .to'):
        fixed = cuda.quantize(x.to('cuda:0'), 8, BITS)
        cuda.dequantize(fixed.mantissa.to('cuda:1'), fixed.exponent)
