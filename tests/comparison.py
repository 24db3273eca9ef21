"""Comparing a backend's kernels with the reference, bit for bit."""

import functools
import itertools
import math

import pytest
import torch

from mmint.backends import (
    Geometry,
    Mapping,
    NonFiniteError,
    RoISampling,
    Running,
    Windows,
    reference,
)
from mmint.backends.magnitudes import known_magnitude
from mmint.backends.source import Masked, Source
from mmint.numerics import FixedPoint, RandomBits, Role, mantissa_dtype
from mmint.numerics.fixed_point import ZEROS_EXPONENT
from mmint.ops.interpolation import resizing_places

CPU, GPU = torch.device('cpu'), torch.device('cuda', 0)
ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no NVIDIA GPU'),
]
# Where tests run the CUDA kernels: in the emulator, and on a GPU.
DEVICES = [pytest.param(CPU, id='emulator'), pytest.param(GPU, id='gpu', marks=ON_GPU)]
BITS = RandomBits(seed=7, rank=1, layer=3, iteration=11, role=Role.INPUT, call=2)
EPS = 1e-5
EXPONENTS = [(-9, -20), (-140, -130), (100, 60), (-30, 3)]


def moved(x, device):
    """Tensors, fixed-point ones too, on ``device``, laid out as they are; others stay."""
    if isinstance(x, FixedPoint):
        return FixedPoint(moved(x.mantissa, device), moved(x.exponent, device), x.bits)
    if not isinstance(x, torch.Tensor) or x.device == device:
        return x
    memory = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage()).to(device)
    return memory.as_strided(x.shape, x.stride(), x.storage_offset())


def pattern(x):
    return x.detach().cpu().contiguous().view(torch.int32)


def assert_same(actual, expected):
    assert actual.dtype == expected.dtype == torch.float32
    assert actual.shape == expected.shape
    assert actual.is_contiguous()
    assert torch.equal(pattern(actual), pattern(expected))


def assert_same_fixed_point(actual, expected):
    assert actual.mantissa.dtype == expected.mantissa.dtype
    assert torch.equal(actual.mantissa.cpu(), expected.mantissa)
    assert actual.exponent.dtype == torch.int32
    assert torch.equal(actual.exponent.cpu(), expected.exponent)
    assert actual.bits == expected.bits


def mantissas(shape, bits=8, exponent=-9, extreme=False):
    most = (1 << bits - 1) - 1
    mantissa = torch.full(shape, most) if extreme else torch.randint(-most, most + 1, shape)
    mantissa = mantissa.to(mantissa_dtype(bits))
    return FixedPoint(mantissa, torch.tensor(exponent, dtype=torch.int32), bits)


def freed(x, exponents):
    """``x`` with exponents of a shape, around its own, some of them far away."""
    around = torch.randint(-3, 4, exponents) * torch.randint(1, 9, exponents)
    return x._replace(exponent=(x.exponent + around).to(torch.int32))


def several_exponents(shape):
    """Numbers of which rows, channels and planes differ in size by up to 2**30."""
    x = torch.randn(shape)
    for axis in range(x.dim()):
        sizes = [n if i == axis else 1 for i, n in enumerate(shape)]
        x *= torch.exp2(torch.randint(-5, 6, sizes))
    return x


# Shapes, and shapes of exponents: of channels, images and groups, rows, columns, filters.
BLOCKS = [
    ((3, 6, 5, 7), (1, 6, 1, 1)), ((3, 6, 5, 7), (3, 2, 1, 1)), ((2, 70, 9, 10), (1, 70, 1, 1)),
    ((2, 3, 33, 65), (1, 3, 1, 1)), ((1, 2, 64, 64), (1, 2, 1, 1)), ((4, 64, 7, 7), (4, 16, 1, 1)),
    ((2, 6, 64), (1, 6, 1)), ((5, 768), (5, 1)), ((9, 70), (1, 70)), ((9, 70), (1, 7)),
    ((33, 7, 3, 3), (1, 7, 1, 1)), ((33, 7, 3, 3), (33, 1, 1, 1)), ((2, 3, 5, 4), (2, 3, 1, 1)),
    ((0, 3), (1, 3)), ((8, 6), (1, 6)), ((2, 1, 9, 9), (1, 1, 1, 1)), ((3,), (3,)),
    ((2, 3, 0, 4), (1, 3, 1, 1)), ((0, 6, 5, 7), (0, 2, 1, 1)),
    ((300, 5), (1, 5)), ((3, 200, 3, 3), (1, 200, 1, 1)), ((2, 2700, 50), (1, 2700, 1)),
]  # fmt: skip


# Dense convolutions whose weights have an exponent for each channel of the result.
DENSE = [
    ((1, 24, 18, 17), (20, 24, 3, 3), Geometry(padding=(1, 1))),
    ((2, 9, 8, 7), (7, 9, 3, 2), Geometry((2, 1), (1, 1))),
    ((2, 40, 5, 5), (33, 40, 1, 1), Geometry()),
]
# Convolutions of groups with exponents of their own: input, weight, geometry.
GROUPED = [
    ((2, 35, 14, 13), (35, 1, 3, 3), Geometry((2, 2), (1, 1), groups=35)),
    ((1, 5, 9, 8), (5, 1, 3, 3), Geometry(padding=(2, 2), dilation=(2, 2), groups=5)),
    ((2, 24, 9, 7), (36, 4, 3, 3), Geometry((1, 2), (1, 1), groups=6)),
    ((2, 6, 7, 7), (12, 1, 3, 3), Geometry(padding=(1, 1), groups=6)),
    ((1, 64, 6, 6), (64, 32, 1, 1), Geometry(groups=2)),
]


def any_float32(shape):
    """Any finite bit pattern: every exponent, subnormals, both zeros."""
    x = torch.randint(-(2**31), 2**31, shape).to(torch.int32)
    return torch.where((x >> 23 & 0xFF) == 0xFF, x & 0x7FFFFF, x).view(torch.float32)


def images_of(shape, bits, exponent=-9, layout=torch.contiguous_format):
    """Planes of several kinds: spread, almost constant, constant, zero, extreme."""
    x = mantissas(shape, bits, exponent)
    kind = torch.arange(shape[1]) % 6
    for i, channel in enumerate(x.mantissa.unbind(1)):
        if kind[i] == 1:
            channel.clamp_(5, 6)
        elif kind[i] == 2:
            channel.fill_((1 << bits - 1) - 1)
        elif kind[i] == 3:
            channel.zero_()
        elif kind[i] == 4:
            channel.copy_(torch.where(channel > 0, (1 << bits - 1) - 1, 1 - (1 << bits - 1)))
    if len(shape) == 4:
        x = x._replace(mantissa=x.mantissa.contiguous(memory_format=layout))
    return x


def parameters(channels):
    """None, ordinary, and of all sizes with zeros among them."""
    spread = torch.randn(channels) * 2.0 ** torch.randint(-30, 10, (channels,))
    spread[::5] = 0
    yield None, None
    yield torch.rand(channels) + 0.5, torch.randn(channels)
    yield spread, spread.flip(0) * 100
    yield torch.zeros(channels), None


def norm_cases(widths, shapes):
    """x and grad of every width and shape, exponents ordinary and extreme in turn."""
    exponents = itertools.cycle(EXPONENTS)
    for (bits, grad_bits), shape in itertools.product(widths, shapes):
        exponent, grad_exponent = next(exponents)
        layout = torch.channels_last if exponent == -9 else torch.contiguous_format
        x = images_of(shape, bits, exponent, layout)
        yield x, mantissas(shape, grad_bits, grad_exponent)


def row_cases(widths, shapes):
    """The same for rows, of several kinds."""
    exponents = itertools.cycle(EXPONENTS)
    for (bits, grad_bits), shape in itertools.product(widths, shapes):
        exponent, grad_exponent = next(exponents)
        x = images_of(shape[::-1], bits, exponent)
        yield x._replace(mantissa=x.mantissa.t()), mantissas(shape, grad_bits, grad_exponent)


def norm_calls_not_finite(value):
    """Calls of norms, name and arguments, with a parameter or statistic of ``value``."""
    x, good, bad = mantissas((2, 3, 4, 4), 8), torch.ones(3), torch.tensor([1.0, value, 1.0])
    sums, products = reference.plane_sums(x), reference.plane_products(x, x)
    totals = sums.sum(1), 32
    return (
        ('batch_norm', x, *totals, bad, None, EPS),
        ('batch_norm', x, *totals, good, bad, EPS),
        ('batch_norm_grad', x, x, totals[0], products.sum(1), 32, bad, EPS),
        ('update_running', bad.clone(), good.clone(), x, *totals, 0.1),
        ('update_running', good.clone(), bad.clone(), x, *totals, 0.1),
        ('frozen_norm', x, bad, good, None, None, EPS),
        ('frozen_norm', x, good, bad, None, None, EPS),
        ('frozen_norm', x, good, -good, None, None, EPS),
        ('frozen_norm', x, good, good, bad, None, EPS),
        ('frozen_norm', x, good, good, None, bad, EPS),
        ('frozen_norm_grad', x, bad, None, EPS),
        ('frozen_norm_grad', x, good, bad, EPS),
        ('frozen_norm_weight_grad', x, x, products.sum(1), bad, good, EPS),
        ('group_norm', x, sums, bad, None, EPS),
        ('group_norm', x, sums, good, bad, EPS),
        ('group_norm_grad', x, x, sums, products, bad, EPS),
        ('layer_norm', mantissas((2, 3), 8), bad, None, EPS),
        ('layer_norm', mantissas((2, 3), 8), None, bad, EPS),
        ('layer_norm_grad', mantissas((2, 3), 8), mantissas((2, 3), 8), sums[:, :, 0], bad, EPS),
    )


def windows_of(size, kernel, stride, padding, ceil_mode=False, count_include_pad=True):
    """Those of `torch.nn.AvgPool2d`, one axis."""
    count = (size + 2 * padding - kernel + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    starts = [i * stride - padding for i in range(count)]
    inside = [(max(s, 0), min(s + kernel, size)) for s in starts]
    padded = [min(s + kernel, size + padding) - s for s in starts]
    return inside, padded if count_include_pad else [stop - start for start, stop in inside]


def adaptive(size, count):
    inside = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
    return inside, [stop - start for start, stop in inside]


def grid(rows, columns):
    divisors = tuple(tuple(a * b for b in columns[1]) for a in rows[1])
    return Windows(tuple(rows[0]), tuple(columns[0]), divisors)


def box_cases():
    """Sizes of images, boxes of all kinds in them, and samplings."""
    sizes, shapes = itertools.cycle([(23, 31), (8, 5), (1, 1), (40, 3)]), ((7, 7), (1, 1), (3, 14))
    for ratio, aligned, shape in itertools.product((0, 2, 3), (True, False), shapes):
        size = next(sizes)
        yield size, boxes_in(size, 4.0), RoISampling(shape, 0.25, ratio, aligned)
    yield (6, 9), boxes_in((6, 9), 14.0), RoISampling((5, 2), 1 / 14, 0, True)


def boxes_in(size, stride):
    """Boxes of two images: ordinary ones, and those that some code stumbles over."""
    height, width = (n * stride for n in size)
    corner, extent = torch.rand(2, 20, 2)
    corner, extent = (corner * 1.4 - 0.2) * torch.tensor([width, height]), extent * 0.7 * height
    points, inside = torch.tensor([[0.0, 0], [width / 2, height / 3]]), torch.tensor([2.0, 1])
    strange = [
        torch.cat([points, points], 1),
        torch.cat([points + 3, points - inside], 1),
        torch.tensor([
            [0.0, 0, width, height],
            [-1e3, -1e3, 1e3, 1e3], [-3e38, 0, 3e38, height], [3e38, 3e38, 3e38, 3e38],
            [width, height, width + 9, height + 9], [-0.9 * stride, -0.9 * stride, stride, stride],
            [1e-40, 0, 1e-40, 5],
        ]),
    ]  # fmt: skip
    boxes = torch.cat([torch.cat([corner, corner + extent], 1), *strange])
    return torch.cat([torch.randint(0, 2, (len(boxes), 1)), boxes], 1)


def resizings():
    """Sizes of images, and places between their pixels."""
    for size, out_size, align_corners, factors in (
        ((5, 7), (10, 14), False, (None, None)),
        ((5, 7), (10, 14), True, (None, None)),
        ((5, 7), (8, 11), False, (1.7, 1.6)),
        ((9, 12), (4, 5), False, (None, None)),
        ((9, 12), (4, 5), True, (None, None)),
        ((4, 3), (33, 25), False, (None, None)),
        ((1, 1), (6, 9), False, (None, None)),
        ((3, 1), (1, 6), True, (None, None)),
    ):
        yield size, resizing_places(size, out_size, align_corners, factors)


def along(size, axis):
    return tuple(n if i == axis else 1 for i, n in enumerate(size))


def several_mappings(device=CPU):
    """Weights and other tensors, more than a launch takes, of both widths, with names."""
    sizes = [(6, 5, 3, 3), (40, 3, 1, 1), (1, 7, 2, 2), (9, 33), (70,), (3, 4, 5), (34, 4, 3, 5)]
    for number in range(60):
        size = sizes[number % len(sizes)]
        exponents = [(), *(along(size, axis) for axis in range(min(2, len(size))))][number % 3 - 1]
        x = torch.randn(size) * torch.rand(size[0]).view(along(size, 0)) ** 9
        if number % 7 == 0:
            x[0] = 0
        random = None if number % 5 == 0 else BITS._replace(layer=number)
        error = functools.partial(NonFiniteError, f'tensor {number}')
        turned = len(size) == 4 and number % 2 == 0
        yield Mapping(x.to(device), 16 if number % 4 == 3 else 8, random, exponents, error, turned)


class Comparison:
    """Of one backend's operations with the reference's.

    Args:
        backend: the module.
        top: the type in which it notes the largest magnitude of what it writes.
        device: where it runs. Arguments are made on the CPU, where the reference runs.
    """

    def __init__(self, backend, top, device=CPU):
        self.backend, self.top, self.device = backend, top, device

    def run(self, name, *arguments):
        """The backend's result."""
        return getattr(self.backend, name)(*(moved(x, self.device) for x in arguments))

    def assert_same_with_top(self, actual, expected):
        """The bits, and the largest magnitude noted on the way out."""
        assert_same(actual, expected)
        magnitudes = pattern(expected) & 0x7FFFFFFF
        top = known_magnitude(actual)
        assert isinstance(top, self.top)
        if self.top is int or top.shape == ():
            assert int(top) == (int(magnitudes.max()) if magnitudes.numel() else 0)
        else:  # of each channel
            others = [i for i in range(magnitudes.dim()) if i != 1]
            assert top.dtype == torch.int32 and top.shape[1:2] == (top.numel(),)
            assert torch.equal(top.cpu(), magnitudes.amax(others, keepdim=True))

    def same(self, name, *arguments):
        """Both backends' results, which are the same; first comes what the next layer maps."""
        actual, expected = self.run(name, *arguments), getattr(reference, name)(*arguments)
        if isinstance(expected, torch.Tensor):
            actual, expected = (actual,), (expected,)
        assert len(actual) == len(expected)
        for number, (a, b) in enumerate(zip(actual, expected, strict=True)):
            if b.dtype == torch.float32:
                mapped = number == 0 and b.dim() > 1
                self.assert_same_with_top(a, b) if mapped else assert_same(a, b)
            else:
                assert a.dtype == b.dtype and torch.equal(a.cpu(), b)
        return expected if len(expected) > 1 else expected[0]

    def addition(self, x, y, bits, random):
        there, other = moved(x, self.device), moved(y, self.device)
        for axes in range(x.dim() + 1):
            exponents = (*x.shape[:axes], *[1] * (x.dim() - axes)) if axes else ()
            expected = reference.add(x, y, bits, random, exponents)
            self.assert_same_with_top(
                self.backend.add(there, other, bits, random, exponents), expected
            )
            result = there.clone(memory_format=torch.contiguous_format)
            made = self.backend.add(result, other, bits, random, exponents, inplace=True)
            assert made is result
            self.assert_same_with_top(made, expected)

    def pooling(self, x, grad, windows):
        self.same('avg_pool2d', x, windows)
        self.same('avg_pool2d_grad', grad, tuple(x.mantissa.shape), windows)

    def roi_align(self, x, boxes, sampling, extreme=False):
        shape = len(boxes), x.mantissa.shape[1], *sampling.output_size
        grad = mantissas(shape, 16, extreme=extreme)
        self.same('roi_align', x, boxes, sampling)
        self.same('roi_align_grad', grad, boxes, tuple(x.mantissa.shape), sampling)

    def resizing(self, x, places):
        grad = mantissas((*x.mantissa.shape[:2], *map(len, places)), 16)
        self.same('resize', x, places)
        self.same('resize_grad', grad, tuple(x.mantissa.shape), places)

    def batch_norm(self, x, grad):
        sums, products = self.same('plane_sums', x), self.same('plane_products', grad, x)
        assert torch.equal(self.same('plane_sums', x, True), sums.sum(1))
        assert torch.equal(self.same('plane_products', grad, x, True), products.sum(1))
        sums, products = sums.sum(1), products.sum(1)
        channels = x.mantissa.shape[1]
        count = x.mantissa.numel() // channels
        if count:
            for weight, bias in parameters(channels):
                self.same('batch_norm', x, sums, count, weight, bias, EPS)
                self.same('batch_norm_grad', grad, x, sums, products, count, weight, EPS)
            self.same('batch_norm_grad', grad, x, sums, products, count, None, EPS, 3 * products)
        if count > 1:
            self.update_running(x, sums, count)

    def grouped_convolution(self, x_size, weight_size, geometry, bits=8, scale=1.0):
        """Its three products, of groups with exponents of their own; one group is zeros."""
        groups = geometry.groups
        out_size = geometry.output_size(x_size[2:], weight_size[2:])
        of_images, of_weight = (1, groups, 1, 1), (groups, 1, 1, 1)
        x, grad = (
            freed(mantissas(size, bits), of_images)
            for size in (x_size, (x_size[0], weight_size[0], *out_size))
        )
        weight = freed(mantissas(weight_size, bits), of_weight)
        x.mantissa[:, : x_size[1] // groups] = 0
        x.exponent[:, 0] = ZEROS_EXPONENT
        weight.mantissa[-weight_size[0] // groups :] = 0
        weight.exponent[-1] = ZEROS_EXPONENT
        for random in (None, BITS):
            for b, w in itertools.product((None, weight_size[0]), (weight, mantissas(weight_size))):
                bias = None if b is None else torch.randn(b) * scale
                self.same('conv2d', x, w, geometry, bias, random)
                bias = None if b is None else torch.randn(x_size[1]) * scale
                self.same('conv2d_input_grad', grad, w, x_size, geometry, bias, random)
        arguments = 'conv2d_weight_grad', grad, x, weight_size, geometry
        assert_same(self.run(*arguments), reference.conv2d_weight_grad(*arguments[1:]))
        self.same('channel_sum', grad, 1)

    def dense_weights(self, x_size, weight_size, geometry, bits=8, scale=1.0):
        """Of a convolution and a matrix product; one channel is zeros."""
        out_size = geometry.output_size(x_size[2:], weight_size[2:])
        x, grad = (mantissas(s, bits) for s in (x_size, (x_size[0], weight_size[0], *out_size)))
        weight, filters, channels = mantissas(weight_size), weight_size[0], weight_size[1]
        weight.mantissa[2] = weight.mantissa[:, 3] = 0
        forward, backward = freed(weight, (filters, 1, 1, 1)), freed(weight, (1, channels, 1, 1))
        forward.exponent[2] = backward.exponent[:, 3] = ZEROS_EXPONENT
        rows, columns = mantissas((19, 45), bits), freed(mantissas((45, 37)), (1, 37))
        columns.mantissa[:, 5] = 0
        columns.exponent[:, 5] = ZEROS_EXPONENT
        for random, biased in itertools.product((None, BITS), (False, True)):
            of_filters, of_channels, of_columns = (
                torch.randn(size) * scale if biased else None for size in (filters, channels, 37)
            )
            self.same('conv2d', x, forward, geometry, of_filters, random)
            arguments = grad, backward, x_size, geometry, of_channels, random
            self.same('conv2d_input_grad', *arguments)
            self.same('matmul', rows, columns, of_columns, random)

    def matrices_with_exponents(self, bits, count):
        """Products of two inputs, each matrix with an exponent of its own."""
        a, b = mantissas((count, 5, 33), bits), mantissas((count, 33, 18), 8)
        of_matrices = count, 1, 1
        turned = freed(mantissas((count, 18, 33), 8), of_matrices)
        self.same('matmul', freed(a, of_matrices), freed(b, of_matrices))
        self.same('matmul', freed(a, of_matrices), b)
        self.same('matmul', a, turned._replace(mantissa=turned.mantissa.mT))

    def norms_with_free_exponents(self, bits, grad_bits):
        """Batch, frozen and group norm of channels, or images and groups; layer norm's rows."""
        x, grad = images_of((2, 6, 5, 7), bits), mantissas((2, 6, 5, 7), grad_bits)
        sums, products = reference.plane_sums(x), reference.plane_products(grad, x)
        weight, bias, mean = torch.randn(3, 6)
        for a, g in itertools.product(
            (x, freed(x, (1, 6, 1, 1))), (grad, freed(grad, (1, 6, 1, 1)))
        ):
            pair, var = (sums.sum(1), products.sum(1)), torch.rand(6)
            self.same('batch_norm', a, pair[0], 70, weight, bias, EPS)
            self.same('batch_norm_grad', g, a, *pair, 70, weight, EPS)
            self.update_running(a, pair[0], 70)
            self.same('frozen_norm', a, mean, var, weight, bias, EPS)
            self.same('frozen_norm_grad', g, var, weight, EPS)
            self.same('frozen_norm_weight_grad', g, a, pair[1], mean, var, EPS)
            self.same('channel_sum', g, 1)
        a, g, sums = freed(x, (2, 3, 1, 1)), freed(grad, (2, 3, 1, 1)), sums.view(2, 2, 3, 2).sum(3)
        self.same('group_norm', a, sums, weight, bias, EPS)
        self.same('group_norm_grad', g, a, sums, products, weight, EPS)
        x, grad = images_of((12, 33), bits), mantissas((12, 33), grad_bits)
        self.layer_norm(freed(x, (12, 1)), grad, *torch.randn(2, 33))

    def sources(self, x, sums, weight, bias, mean, var):
        """Elements of norms that are made where they are read, uncut and cut, at all widths."""
        count, groups = x.mantissa[:, 0].numel(), sums.view(2, len(x.mantissa), 2, -1).sum(3)
        one = x if x.exponent.numel() == 1 else x._replace(exponent=x.exponent.flatten()[0])
        grad = mantissas(tuple(x.mantissa.shape), x.bits)
        products = reference.plane_products(grad, x)
        sums = sums.sum(1)
        for name, *arguments in (
            ('batch_norm_source', x, sums, count, weight, bias, EPS),
            ('group_norm_source', one, groups, weight, bias, EPS),
            ('frozen_norm_source', x, mean, var, weight, bias, EPS),
        ):
            made, expected = self.run(name, *arguments), getattr(reference, name)(*arguments)
            for ceiling in (None, math.inf, 0.75):
                cut = [source._replace(ceiling=ceiling) for source in (made, expected)]
                self.readers(*cut)
                if ceiling is not None:
                    passed, same = (
                        b.relu_passed(s)
                        for b, s in zip((self.backend, reference), cut, strict=True)
                    )
                    assert torch.equal(passed.cpu(), same)
        for name, *arguments in (
            ('batch_norm_grad_source', grad, x, sums, products.sum(1), count, weight, EPS),
            ('group_norm_grad_source', grad, one, groups, products, weight, EPS),
            ('frozen_norm_grad_source', grad, var, weight, EPS),
        ):
            made, expected = self.run(name, *arguments), getattr(reference, name)(*arguments)
            if name != 'frozen_norm_grad_source':
                (made, *others), (expected, *same) = made, expected
                assert all(torch.equal(a.cpu(), b) for a, b in zip(others, same, strict=True))
            self.readers(made, expected)
        memory, other = torch.randn(2, *x.mantissa.shape)
        _, passed = reference.relu(other, False)
        made = Masked(moved(memory, self.device), passed.to(self.device))
        self.readers(made, Masked(memory, passed))

    def readers(self, made, expected):
        """Whoever reads a source of the backend and one of the reference."""
        size = images, channels, *_ = expected.shape
        if isinstance(expected, Source):
            assert torch.equal(made.coefficients.cpu(), expected.coefficients)
        written = reference.elements(expected)
        self.assert_same_with_top(self.backend.elements(made), written)
        for bits, exponents, random in (
            (8, (), BITS),
            (8, (1, channels, 1, 1), BITS),
            (4, (1, channels // 2, 1, 1), None),
            (12, (1, channels, 1, 1), BITS),
            (16, (), None),
        ):
            mapped = self.backend.quantize(made, bits, random, None, exponents)
            same = reference.quantize(written, bits, random, None, exponents)
            assert_same_fixed_point(mapped, same)
        other = torch.randn(size)
        there = moved(other, self.device)
        for a, b, e, f in ((made, made, expected, expected), (there, made, other, expected)):
            for exponents in (), (images, 1, 1, 1), (images, channels, 1, 1):
                actual = self.backend.add(a, b, 16, BITS, exponents)
                self.assert_same_with_top(actual, reference.add(e, f, 16, BITS, exponents))

    def batch_norm_without_parameters(self, x, grad):
        sums = self.same('plane_sums', x).sum(1)
        products = self.same('plane_products', grad, x).sum(1)
        count = x.mantissa[:, 0].numel()
        self.same('batch_norm', x, sums, count, None, None, EPS)
        self.same('batch_norm_grad', grad, x, sums, products, count, None, EPS)

    def update_running(self, x, sums, count):
        channels = x.mantissa.shape[1]
        for momentum in (0.1, 1.0, 0.0003):
            mean, var = torch.randn(channels), torch.rand(2 * channels)[::2]
            expected = mean.clone(), var.clone()
            mean, var = moved(mean, self.device), moved(var, self.device)
            reference.update_running(*expected, x, sums, count, momentum)
            also = mean.clone(), var.repeat_interleave(2)[::2], torch.tensor(7, device=self.device)
            running = Running(*also[:2], momentum, also[2])
            self.run('batch_norm', x, sums, count, None, None, EPS, running)
            assert also[2] == 8
            self.run('update_running', mean, var, x, sums, count, momentum)
            for of in ((mean, var), also):
                assert_same(of[0], expected[0])
                assert_same(of[1].contiguous(), expected[1])

    def frozen_norm(self, x, grad):
        channels = x.mantissa.shape[1]
        products = reference.plane_products(grad, x).sum(1)
        for weight, bias in parameters(channels):
            mean, var = torch.randn(channels), torch.rand(channels)
            var[::3] *= 1e-12
            self.same('frozen_norm', x, mean, var, weight, bias, EPS)
            self.same('frozen_norm_grad', grad, var, weight, EPS)
        self.same('frozen_norm_weight_grad', grad, x, products, mean, var, EPS)

    def group_norm(self, x, grad):
        images, channels = x.mantissa.shape[:2]
        for groups in (3, channels):
            sums = reference.plane_sums(x).view(2, images, groups, -1).sum(3)
            products = reference.plane_products(grad, x)
            for weight, bias in parameters(channels):
                self.same('group_norm', x, sums, weight, bias, EPS)
                self.same('group_norm_grad', grad, x, sums, products, weight, EPS)

    def layer_norm(self, x, grad, weight, bias, eps=EPS):
        _, sums = self.same('layer_norm', x, weight, bias, eps)
        self.same('layer_norm_grad', grad, x, sums, weight, eps)
