"""The integer operations in C: SIMD, threads, and the bits of `mmint.backends.reference`.

Mantissas of images and filters (int8, four dimensions) are kept channels-last in memory. The
instruction set is the best that the machine has; the environment variable ``MMINT_CPU_LEVEL``
names another, read at the first use.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from ...numerics import FixedPoint, RandomBits, Role, mantissa_dtype
from ..errors import NonFiniteError
from ..geometry import Geometry, Pooling
from ..reference.sgd import scalar

name = 'cpu'

__all__ = [
    'available',
    'channel_sum',
    'conv2d',
    'conv2d_input_grad',
    'conv2d_weight_grad',
    'dequantize',
    'level',
    'levels',
    'matmul',
    'max_pool2d',
    'max_pool2d_grad',
    'name',
    'quantize',
    'relu',
    'relu_grad',
    'sgd_step',
]

VARIABLE = 'MMINT_CPU_LEVEL'
LEVELS = ('avx512vnni', 'avxvnni', 'avx2', 'neon', 'portable')
NOT_FINITE = 1 << 20
NO_BITS = (0, 0, 0, 0, 0, 0)
NO_BIAS = (0, 0, *NO_BITS)


def available() -> bool:
    """Whether the C kernels are built."""
    try:
        _module()
    except ImportError:
        return False
    return True


def level() -> str:
    """The name of the instruction set in use."""
    return _ready().level()


def levels() -> tuple[str, ...]:
    """The names of the instruction sets that this machine has, best first."""
    return _module().levels()


def use_level(wish: str) -> None:
    """Uses this instruction set from now on.

    Raises:
        ValueError: if there is none of this name, or the machine does not have it.
    """
    if wish not in LEVELS:
        raise ValueError(f'{VARIABLE}={wish!r} was given, one of {", ".join(LEVELS)} is accepted')
    if not _module().set_level(wish):
        raise ValueError(
            f'{VARIABLE}={wish!r} was given, this machine has {", ".join(levels())}: set the '
            'variable to one of them or unset it'
        )


def _module() -> ModuleType:
    try:
        from . import _kernels  # after torch, whose OpenMP runtime it shares
    except ImportError as error:
        raise ImportError(
            f'the C kernels of mmint are not built ({error}): install a C compiler and run '
            '`pip install --force-reinstall --no-deps .` in the mmint checkout'
        ) from error
    return _kernels


@functools.cache
def _ready() -> ModuleType:
    module = _module()
    wish = os.environ.get(VARIABLE)
    if wish:
        use_level(wish)
    return module


def quantize(x: Tensor, bits: int, random: RandomBits | None) -> FixedPoint:
    """As `mmint.backends.reference.quantize`."""
    kernels = _ready()
    x = x.detach().contiguous()
    images, channels, pixels = 1, 1, x.numel()
    if x.dim() == 4 and bits <= 8:
        images, channels, height, width = x.shape
        pixels = height * width
        mantissa = torch.empty(x.shape, dtype=torch.int8, memory_format=torch.channels_last)
    else:
        mantissa = torch.empty(x.shape, dtype=mantissa_dtype(bits))
    exponent = kernels.quantize(
        x.data_ptr(), mantissa.data_ptr(), images, channels, pixels, bits, *_words(random),
        torch.get_num_threads(),
    )  # fmt: skip
    if exponent == NOT_FINITE:
        raise NonFiniteError
    return FixedPoint(mantissa, torch.tensor(exponent, dtype=torch.int32), bits)


def dequantize(mantissa: Tensor, exponent: Tensor | int) -> Tensor:
    """As `mmint.backends.reference.dequantize`."""
    kernels = _ready()
    if mantissa.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64):
        mantissa = mantissa.to(torch.int64)
    mantissa = mantissa.contiguous()
    out = torch.empty(mantissa.shape, dtype=torch.float32)
    kernels.dequantize(
        mantissa.data_ptr(), out.data_ptr(), mantissa.numel(), mantissa.element_size(),
        int(exponent), torch.get_num_threads(),
    )  # fmt: skip
    return out


def conv2d(
    x: FixedPoint,
    weight: FixedPoint,
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `mmint.backends.reference.conv2d`."""
    shape = x.mantissa.shape
    filters, _, kernel_h, kernel_w = weight.mantissa.shape
    height, width = (
        (shape[2 + i] + 2 * geometry.padding[i] - geometry.dilation[i] * (k - 1) - 1)
        // geometry.stride[i]
        + 1
        for i, k in enumerate((kernel_h, kernel_w))
    )
    out = torch.empty((shape[0], filters, height, width), dtype=torch.float32)
    a, b, wide = _pair(x, weight)
    a, b = _channels_last(a), _channels_last(b)

    def run(bias_words: tuple[int, ...]) -> int:
        return _ready().conv2d(
            a.data_ptr(), b.data_ptr(), 0, out.data_ptr(),
            *_geometry(shape, b.shape, out.shape, geometry), wide, *_products(x, weight),
            *bias_words,
        )  # fmt: skip

    return _with_bias(run, out, bias, random, 1)


def conv2d_input_grad(
    grad: FixedPoint,
    weight: FixedPoint,
    input_size: tuple[int, int, int, int],
    geometry: Geometry,
    bias: Tensor | None = None,
    random: RandomBits | None = None,
) -> Tensor:
    """As `mmint.backends.reference.conv2d_input_grad`."""
    out = torch.empty(tuple(input_size), dtype=torch.float32)
    g, b, wide = _pair(grad, weight)
    g, b = _channels_last(g), _channels_last(b)

    def run(bias_words: tuple[int, ...]) -> int:
        return _ready().conv2d_input_grad(
            0, b.data_ptr(), g.data_ptr(), out.data_ptr(),
            *_geometry(out.shape, b.shape, g.shape, geometry), wide, *_products(grad, weight),
            *bias_words,
        )  # fmt: skip

    return _with_bias(run, out, bias, random, 1)


def conv2d_weight_grad(
    grad: FixedPoint,
    x: FixedPoint,
    weight_size: tuple[int, int, int, int],
    geometry: Geometry,
) -> Tensor:
    """As `mmint.backends.reference.conv2d_weight_grad`."""
    out = torch.empty(tuple(weight_size), dtype=torch.float32)
    g, a, wide = _pair(grad, x)
    g, a = _channels_last(g), _channels_last(a)
    _ready().conv2d_weight_grad(
        a.data_ptr(), 0, g.data_ptr(), out.data_ptr(),
        *_geometry(a.shape, out.shape, g.shape, geometry), wide, *_products(grad, x), *NO_BIAS,
    )  # fmt: skip
    return out


def matmul(
    a: FixedPoint, b: FixedPoint, bias: Tensor | None = None, random: RandomBits | None = None
) -> Tensor:
    """As `mmint.backends.reference.matmul`."""
    left, right, wide = _pair(a, b)
    if 1 not in left.stride():
        left = left.contiguous()
    if 1 not in right.stride():
        right = right.contiguous()
    m, k = left.shape
    n = right.shape[1]
    if len(right) != k:
        raise ValueError(
            f'matrices of shapes {tuple(left.shape)} and {tuple(right.shape)} were given, a second '
            f'one of {k} rows is accepted'
        )
    out = torch.empty((m, n), dtype=torch.float32)

    def run(bias_words: tuple[int, ...]) -> int:
        return _ready().matmul(
            left.data_ptr(), right.data_ptr(), out.data_ptr(), m, k, n,
            *left.stride(), *right.stride(), wide, *_products(a, b), *bias_words,
        )  # fmt: skip

    return _with_bias(run, out, bias, random, -1)


def channel_sum(grad: FixedPoint, channel_dim: int) -> Tensor:
    """As `mmint.backends.reference.channel_sum`."""
    mantissa = grad.mantissa.movedim(channel_dim, -1).contiguous()
    channels = mantissa.shape[-1]
    out = torch.empty(channels, dtype=torch.float32)
    _ready().channel_sum(
        mantissa.data_ptr(), out.data_ptr(), mantissa.numel() // max(channels, 1), channels,
        mantissa.dtype == torch.int16, int(grad.exponent), torch.get_num_threads(),
    )  # fmt: skip
    return out


def relu(x: Tensor, inplace: bool) -> tuple[Tensor, Tensor]:
    """As `mmint.backends.reference.relu`."""
    source = x.contiguous()
    out = x if inplace else torch.empty_like(source)
    target = out if out.is_contiguous() else source
    positive = torch.empty((x.numel() + 7) // 8, dtype=torch.uint8)
    _ready().relu(
        source.data_ptr(), target.data_ptr(), positive.data_ptr(), x.numel(),
        torch.get_num_threads(),
    )  # fmt: skip
    return (out if target is out else out.copy_(target)), positive


def relu_grad(grad: Tensor, positive: Tensor) -> Tensor:
    """As `mmint.backends.reference.relu_grad`."""
    grad = grad.contiguous()
    out = torch.empty_like(grad)
    _ready().relu_grad(
        grad.data_ptr(), out.data_ptr(), positive.data_ptr(), grad.numel(),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def max_pool2d(x: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """As `mmint.backends.reference.max_pool2d`."""
    x = x.contiguous()
    kernel, stride, padding, ceil_mode = pooling
    meta = torch.empty(x.shape, device='meta')
    shape = F.max_pool2d(meta, kernel, stride, padding, 1, ceil_mode).shape
    out = torch.empty(shape, dtype=torch.float32)
    place = torch.empty(shape, dtype=torch.uint8)
    _ready().max_pool2d(
        x.data_ptr(), out.data_ptr(), place.data_ptr(), *_planes(x.shape, out.shape, pooling)
    )
    return out, place


def max_pool2d_grad(
    grad: Tensor, place: Tensor, input_size: tuple[int, int, int, int], pooling: Pooling
) -> Tensor:
    """As `mmint.backends.reference.max_pool2d_grad`."""
    grad = grad.contiguous()
    out = torch.empty(input_size, dtype=torch.float32)
    _ready().max_pool2d_grad(
        grad.data_ptr(), out.data_ptr(), place.data_ptr(), *_planes(input_size, grad.shape, pooling)
    )
    return out


def _planes(size: tuple[int, ...], out_size: tuple[int, ...], pooling: Pooling) -> tuple[int, ...]:
    kernel, stride, padding, _ = pooling
    threads = torch.get_num_threads()
    return (
        size[0] * size[1], *size[2:], *out_size[2:], *kernel, *stride, *padding, threads
    )  # fmt: skip


def sgd_step(
    param: Tensor,
    grad: Tensor,
    momentum_buffer: FixedPoint | None,
    bits: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    random: RandomBits,
) -> FixedPoint:
    """As `mmint.backends.reference.sgd_step`."""
    dtype = mantissa_dtype(bits)
    values, grad = param.detach().contiguous(), grad.detach().contiguous()
    buffer = torch.empty(param.shape, dtype=dtype)
    old, old_exponent = None, 0
    if momentum_buffer is not None:
        old = momentum_buffer.mantissa.to(dtype).contiguous()
        old_exponent = int(momentum_buffer.exponent)
    exponent = _ready().sgd_step(
        values.data_ptr(), grad.data_ptr(), 0 if old is None else old.data_ptr(),
        buffer.data_ptr(), param.numel(), bits, old_exponent,
        *scalar(momentum), *scalar(weight_decay), *scalar(-lr), nesterov,
        *random._replace(role=Role(0)).words(), torch.get_num_threads(),
    )  # fmt: skip
    if exponent == NOT_FINITE:
        raise NonFiniteError
    if values.data_ptr() != param.data_ptr():
        param.detach().copy_(values)
    return FixedPoint(buffer, torch.tensor(exponent, dtype=torch.int32), bits)


def _words(random: RandomBits | None) -> tuple[int, ...]:
    return NO_BITS if random is None else (1, *random.words())


def _pair(a: FixedPoint, b: FixedPoint) -> tuple[Tensor, Tensor, bool]:
    """Both mantissas in one dtype, and whether that is int16."""
    left, right = a.mantissa, b.mantissa
    if left.dtype != right.dtype:
        left, right = left.to(torch.int16), right.to(torch.int16)
    return left, right, left.dtype == torch.int16


def _channels_last(mantissa: Tensor) -> Tensor:
    return mantissa.contiguous(memory_format=torch.channels_last)


def _geometry(
    x: tuple[int, ...], weight: tuple[int, ...], out: tuple[int, ...], geometry: Geometry
) -> tuple[int, ...]:
    stride, padding, dilation, groups = geometry
    return (*x, *weight[:1], *weight[2:], *out[2:], *stride, *padding, *dilation, groups)


def _products(a: FixedPoint, b: FixedPoint) -> tuple[int, int, int]:
    """The largest product's magnitude, the products' exponent, threads."""
    largest = ((1 << a.bits - 1) - 1) * ((1 << b.bits - 1) - 1)
    return largest, int(a.exponent) + int(b.exponent), torch.get_num_threads()


def _with_bias(
    run: Callable[[tuple[int, ...]], int],
    out: Tensor,
    bias: Tensor | None,
    random: RandomBits | None,
    dim: int,
) -> Tensor:
    if bias is None:
        run(NO_BIAS)
        return out
    bias = bias.detach().contiguous()
    any_sum = run((bias.data_ptr(), bias.numel(), *_words(random)))
    if any_sum == NOT_FINITE:
        raise NonFiniteError
    if not any_sum:  # all sums are zero, so the result is the bias itself
        shape = [1] * out.dim()
        shape[dim] = -1
        out.copy_(bias.view(shape))
    return out
