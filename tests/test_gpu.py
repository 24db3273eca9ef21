"""On an NVIDIA GPU: every operation against the reference, a model trained there and on the CPU.

`python -m pytest -m gpu`
"""

import itertools
import math
import random as rng

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmint.backends import Geometry, NonFiniteError, Pooling, backend_for, cuda, reference
from mmint.backends.cuda import finite
from mmint.backends.errors import naming
from mmint.convert import convert
from mmint.numerics import FixedPoint, RandomBits, Role, current_run, mantissa_dtype
from mmint.optim import IntSGD

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no NVIDIA GPU'),
]

GPU = torch.device('cuda', 0)
BITS = RandomBits(seed=7, rank=1, layer=3, iteration=11, role=Role.INPUT, call=2)


@pytest.fixture(autouse=True)
def fresh():
    """Fixed seeds, an empty list of calls, and nothing left over for `check`."""
    torch.manual_seed(0)
    current_run.seed = current_run.rank = 0
    current_run.begin_iteration(0)
    yield
    finite.forget(GPU)


def same(actual, expected):
    """Equal to the bit, so that 0 and -0 differ."""
    assert actual.dtype == expected.dtype == torch.float32 and actual.shape == expected.shape
    patterns = [x.detach().cpu().contiguous().view(torch.int32) for x in (actual, expected)]
    return torch.equal(*patterns)


def same_fixed_point(actual, expected):
    assert actual.mantissa.dtype == expected.mantissa.dtype and actual.bits == expected.bits
    return torch.equal(actual.mantissa.cpu(), expected.mantissa) and int(actual.exponent) == int(
        expected.exponent
    )


def on_gpu(x):
    """A tensor or a fixed-point tensor on the GPU."""
    if isinstance(x, FixedPoint):
        return FixedPoint(x.mantissa.to(GPU), x.exponent.to(GPU), x.bits)
    return None if x is None else x.to(GPU)


def mantissas(shape, bits, exponent=-9, extreme=False):
    most = (1 << bits - 1) - 1
    mantissa = torch.full(shape, most) if extreme else torch.randint(-most, most + 1, shape)
    mantissa = mantissa.to(mantissa_dtype(bits))
    return FixedPoint(mantissa, torch.tensor(exponent, dtype=torch.int32), bits)


def any_float32(shape):
    """Any finite bit pattern: every exponent, subnormals, both zeros."""
    x = torch.randint(-(2**31), 2**31, shape).to(torch.int32)
    return torch.where((x >> 23 & 0xFF) == 0xFF, x & 0x7FFFFF, x).view(torch.float32)


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
            assert same_fixed_point(actual, reference.quantize(x, bits, random)), shape
    cuda.check(GPU)


def test_quantize_any_memory_layout():
    x = torch.randn(2, 6, 10, 9)
    views = [
        x.to(memory_format=torch.channels_last), x.transpose(1, 3), x[:, ::2], x[..., 1:-1],
        x[0].expand(3, 6, 10, 9), x.flatten()[::3], x.flatten()[1:], x.permute(3, 2, 1, 0),
    ]  # fmt: skip
    for view in views:
        expected = reference.quantize(view, 8, BITS)
        assert same_fixed_point(cuda.quantize(on_gpu(view), 8, BITS), expected)


@pytest.mark.parametrize('dtype', [torch.int8, torch.int16, torch.int32, torch.int64])
def test_dequantize(dtype):
    info = torch.iinfo(dtype)
    x = torch.randint(max(info.min, -(2**62) + 1), min(info.max, 2**62 - 1), (100_003,))
    x = (x >> torch.randint(0, info.bits, x.shape)).to(dtype)
    for exponent in (-400, -180, -155, -149, -140, -127, -126, -60, 0, 60, 96, 97, 110, 300):
        assert same(cuda.dequantize(on_gpu(x), exponent), reference.dequantize(x, exponent))
    on_device = torch.tensor(-3, dtype=torch.int32, device=GPU)
    assert same(cuda.dequantize(on_gpu(x), on_device), reference.dequantize(x, -3))


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
    gx, gw, gg = map(on_gpu, (x, weight, grad))
    case = geometry, x_shape, weight_shape, bits
    for scale, random in ((None, None), (bias_scale, None), (bias_scale, BITS)):
        bias = None if scale is None else torch.randn(weight_shape[0]) * scale
        actual = cuda.conv2d(gx, gw, geometry, on_gpu(bias), random)
        assert same(actual, reference.conv2d(x, weight, geometry, bias, random)), case
        bias = None if scale is None else torch.randn(x_shape[1]) * scale
        actual = cuda.conv2d_input_grad(gg, gw, x_shape, geometry, on_gpu(bias), random)
        expected = reference.conv2d_input_grad(grad, weight, x_shape, geometry, bias, random)
        assert same(actual, expected), case
    actual = cuda.conv2d_weight_grad(gg, gx, weight_shape, geometry)
    assert same(actual, reference.conv2d_weight_grad(grad, x, weight_shape, geometry)), case


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
    assert same(cuda.matmul(on_gpu(a), on_gpu(b)), reference.matmul(a, b))


@pytest.mark.parametrize('bits', [(8, 8), (4, 8), (12, 12), (16, 16), (8, 16)])
def test_matmul(bits):
    """Matrices as they come and transposed in memory."""
    sizes = [(1, 1, 1), (7, 33, 17), (64, 64, 64), (130, 1030, 50), (512, 2048, 1000), (1, 300, 70),
             (0, 4, 4), (4, 0, 3)]  # fmt: skip
    for (m, k, n), turn_a, turn_b in itertools.product(sizes, (False, True), (False, True)):
        a, b = mantissas((m, k), bits[0]), mantissas((k, n), bits[1])
        given = [on_gpu(x) for x in (a, b)]
        given = [
            x._replace(mantissa=x.mantissa.t().contiguous().t()) if turn else x
            for x, turn in zip(given, (turn_a, turn_b), strict=True)
        ]
        for bias, random in ((None, None), (torch.randn(n), BITS)):
            actual = cuda.matmul(*given, on_gpu(bias), random)
            assert same(actual, reference.matmul(a, b, bias, random))


@pytest.mark.parametrize('bits', [8, 16])
def test_channel_sum(bits):
    for shape, dim in (((2, 5, 70, 90), 1), ((300, 40), -1), ((40,), 0), ((0, 3), 1),
                       ((2, 3, 4), 0), ((400_000, 3), 1)):  # fmt: skip
        x = mantissas(shape, bits, extreme=shape[0] == 400_000)
        assert same(cuda.channel_sum(on_gpu(x), dim), reference.channel_sum(x, dim))


# ---- exact layers and the update ----


def test_relu():
    for shape in ((0,), (1,), (31,), (1_000_001,), (3, 5, 70, 11)):
        x, grad = torch.randn(shape), torch.randn(shape)
        x.view(-1)[::7] = -0.0
        expected, positive = reference.relu(x.clone(), inplace=False)
        for inplace in (False, True):
            actual, actual_positive = cuda.relu(on_gpu(x), inplace)
            assert same(actual, expected) and torch.equal(actual_positive.cpu(), positive)
        actual = cuda.relu_grad(on_gpu(grad), positive.to(GPU))
        assert torch.equal(actual.cpu(), reference.relu_grad(grad, positive))


@pytest.mark.parametrize('ceil_mode', [False, True])
def test_max_pooling(ceil_mode):
    for kernel, stride, padding in (((3, 3), (2, 2), (1, 1)), ((2, 2), (2, 2), (0, 0)),
                                    ((3, 2), (1, 3), (1, 0))):  # fmt: skip
        pooling = Pooling(kernel, stride, padding, ceil_mode)
        x = torch.randint(-3, 3, (2, 30, 41, 50)).float()
        expected, place = reference.max_pool2d(x, pooling)
        actual, actual_place = cuda.max_pool2d(on_gpu(x), pooling)
        assert same(actual, expected) and torch.equal(actual_place.cpu(), place)
        grad = torch.randn(expected.shape)
        actual = cuda.max_pool2d_grad(on_gpu(grad), on_gpu(place), x.shape, pooling)
        expected = reference.max_pool2d_grad(grad, place, x.shape, pooling)
        assert torch.equal(actual.cpu(), expected)


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd(bits, nesterov):
    for numel, scale in itertools.product((0, 1, 65, 16_384, 300_001), (1.0, 1e-6, 1e6, 0.0)):
        start = torch.randn(numel)
        params, buffers = [start.to(GPU), start.clone()], [None, None]
        for step in range(3):
            grad = torch.randn(numel) * scale
            buffers = [
                backend.sgd_step(
                    param, grad.to(param.device), buffer, bits, 0.1, 0.9, 1e-3, nesterov,
                    BITS._replace(iteration=step),
                )
                for backend, param, buffer in zip((cuda, reference), params, buffers, strict=True)
            ]  # fmt: skip
            assert same(*params) and same_fixed_point(*buffers)


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
    assert same_fixed_point(fixed, reference.quantize(x, 8, BITS))


def test_kernels_can_be_captured_in_a_graph():
    """The captured kernels see what is in their input when the graph is replayed."""
    given = torch.randn(2, 16, 20, 20, device=GPU)
    weight = on_gpu(mantissas((8, 16, 3, 3), 8))
    cuda.conv2d(cuda.quantize(given, 8, BITS), weight, Geometry())  # compiles and loads
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = cuda.conv2d(cuda.quantize(given, 8, BITS), weight, Geometry())
    x = torch.randn(2, 16, 20, 20)
    given.copy_(x)
    graph.replay()
    weight = FixedPoint(weight.mantissa.cpu(), weight.exponent.cpu(), 8)
    expected = reference.conv2d(reference.quantize(x, 8, BITS), weight, Geometry())
    assert same(out, expected)
    cuda.check(GPU)


def test_several_gpus_in_one_process():
    if torch.cuda.device_count() < 2:
        pytest.skip('there is one GPU')
    x = torch.randn(2, 16, 20, 20)
    expected = reference.quantize(x, 8, BITS)
    for device in ('cuda:1', 'cuda:0', 'cuda:1'):
        assert same_fixed_point(cuda.quantize(x.to(device), 8, BITS), expected)
    with pytest.raises(ValueError, match='move them with .to'):
        fixed = cuda.quantize(x.to('cuda:0'), 8, BITS)
        cuda.dequantize(fixed.mantissa.to('cuda:1'), fixed.exponent)


# ---- training ----


def small_model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 16 * 16, 10),
    )  # fmt: skip


def test_training_gives_the_same_bits_on_gpu_and_cpu():
    """The outputs of every layer, the gradients and the parameters, in each of several steps.

    The loss is float, so both compute it on the CPU.
    """
    models = [small_model(), small_model()]
    for model in models:
        convert(model)
    for first, second in zip(models[0].modules(), models[1].modules(), strict=True):
        if hasattr(first, 'site'):
            second.site.number = first.site.number
    models[0].to(GPU)
    optimizers = [IntSGD(m.parameters(), 0.05, momentum=0.9, weight_decay=1e-4) for m in models]
    outputs = [[], []]
    for model, seen in zip(models, outputs, strict=True):
        for layer in model:
            layer.register_forward_hook(
                lambda _, x, out, seen=seen: seen.append(out.detach().cpu())
            )
    images, labels = torch.randn(4, 8, 3, 32, 32), torch.randint(0, 10, (4, 8))
    for step in range(4):
        for model, optimizer, seen in zip(models, optimizers, outputs, strict=True):
            seen.clear()
            current_run.begin_iteration(step)
            device = next(model.parameters()).device
            loss = F.cross_entropy(model(images[step].to(device)).cpu(), labels[step])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for actual, expected in zip(*outputs, strict=True):
            assert same(actual, expected)
        for actual, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert same(actual.grad, expected.grad) and same(actual, expected)
    cuda.check(GPU)
