"""The C mapping, and its inverse, against the reference, bit for bit."""

import itertools
import math

import pytest
import torch
from comparison import (
    BITS,
    BLOCKS,
    Comparison,
    any_float32,
    assert_same,
    assert_same_fixed_point,
    several_exponents,
)

from mmint.backends import NonFiniteError, cpu, reference

check = Comparison(cpu, int)
pytestmark = pytest.mark.skipif(not cpu.available(), reason='the C kernels are not built')


SHAPES = [(), (0,), (1,), (5,), (63,), (64,), (65,), (1000,), (3, 0, 2, 2), (2, 1, 5, 5),
          (1, 7, 1, 1), (2, 3, 33, 21), (2, 17, 16, 20),
          (1, 70, 20, 30), (1, 3, 47, 50), (70000,)]  # fmt: skip


@pytest.mark.parametrize('bits', [4, 7, 8, 9, 16])
@pytest.mark.parametrize('random', [None, BITS])
def test_quantize(level, bits, random):
    for shape in SHAPES:
        for x in (torch.randn(shape), torch.randn(shape) * 1e-41, any_float32(shape)):
            assert_same_fixed_point(
                cpu.quantize(x, bits, random), reference.quantize(x, bits, random)
            )


@pytest.mark.parametrize('bits', [4, 8, 16])
@pytest.mark.parametrize('random', [None, BITS])
def test_exponents_of_blocks(level, bits, random):
    for shape, exponents in BLOCKS:
        for x in (several_exponents(shape), any_float32(shape)):
            assert_same_fixed_point(
                cpu.quantize(x, bits, random, exponents=exponents),
                reference.quantize(x, bits, random, exponents=exponents),
            )


def test_exponents_of_blocks_at_given_maxima():
    x, exponents = several_exponents((2, 6, 9, 8)), (1, 6, 1, 1)
    tops = (3 * x).abs().amax((0, 2, 3)).view(torch.int32)
    assert_same_fixed_point(
        cpu.quantize(x, 8, BITS, tops, exponents), reference.quantize(x, 8, BITS, tops, exponents)
    )


def test_exponents_of_blocks_of_many_threads(threads):
    for shape, exponents in (
        ((2, 70, 47, 50), (1, 70, 1, 1)), ((2, 70, 2351), (1, 70, 1)), ((300, 500), (1, 500)),
        ((70, 1501), (70, 1)),
    ):  # fmt: skip
        x = several_exponents(shape)
        assert_same_fixed_point(
            cpu.quantize(x, 8, BITS, exponents=exponents),
            reference.quantize(x, 8, BITS, exponents=exponents),
        )


@pytest.mark.parametrize('value', [math.inf, math.nan])
def test_a_block_that_is_not_finite(level, value):
    x = torch.randn(2, 6, 5, 7)
    x[1, 3, 2, 2] = value
    for backend in (cpu, reference):
        with pytest.raises(NonFiniteError):
            backend.quantize(x, 8, BITS, exponents=(1, 6, 1, 1))


def test_quantize_threads(threads):
    for shape in ((100_001,), (2, 70, 47, 50), (1, 9, 100, 90)):
        x = torch.randn(shape)
        assert_same_fixed_point(cpu.quantize(x, 8, BITS), reference.quantize(x, 8, BITS))


@pytest.mark.parametrize('random', [None, BITS])
def test_quantize_spread(level, random):
    """Exponents that span what 8 bits see and what they do not."""
    x = torch.randn(4, 9, 31, 17) * torch.exp2(torch.randint(-40, 3, (4, 9, 31, 17)))
    for bits in (4, 8, 16):
        assert_same_fixed_point(cpu.quantize(x, bits, random), reference.quantize(x, bits, random))


def test_quantize_strided(level):
    x = torch.randn(2, 6, 10, 9)
    views = [
        x.to(memory_format=torch.channels_last), x.transpose(1, 3), x[:, ::2], x[..., 1:-1],
        x[0].expand(3, 6, 10, 9), x.flatten()[::3], x.permute(3, 2, 1, 0),
    ]  # fmt: skip
    for view in views:
        for random in (None, BITS):
            assert_same_fixed_point(
                cpu.quantize(view, 8, random), reference.quantize(view, 8, random)
            )


def test_quantize_zeros_and_borders(level):
    zeros = torch.tensor([0.0, -0.0])
    assert_same_fixed_point(cpu.quantize(zeros, 8, BITS), reference.quantize(zeros, 8, BITS))
    for top in (127 / 64, 127.5 / 64, 1.9999999, 2.0, 1.0, 2.0**-126, 2.0**-149, 3.4028235e38):
        x = torch.tensor([top, -top, top / 2, top / 3, top / 512, -top / 300, 0.0])
        for bits, random in itertools.product((4, 8, 11, 16), (None, BITS)):
            assert_same_fixed_point(
                cpu.quantize(x, bits, random), reference.quantize(x, bits, random)
            )


@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan])
def test_quantize_not_finite(level, value):
    for shape, at in (((3,), 0), ((2, 3, 50, 50), 14999), ((100_000,), 77_777)):
        x = torch.randn(shape)
        x.view(-1)[at] = value
        with pytest.raises(NonFiniteError):
            cpu.quantize(x, 8, BITS)


@pytest.mark.exhaustive
@pytest.mark.parametrize('random', [None, BITS], ids=['nearest', 'stochastic'])
def test_quantize_every_float32(random):
    """All 2**32 patterns at 8 bits (0 for those that are not finite), 2**22 at a time.

    Such a block spans half an exponent field; one value that is larger by 0 to 27 fields is put
    before it, so that over the blocks every distance from the largest value occurs, up to those
    that leave nothing. Takes about 14 minutes each on one core, nearly all in the reference.
    """
    block = 1 << 22
    for number, first in enumerate(range(-(2**31), 2**31, block)):
        x = torch.arange(first, first + block).to(torch.int32)
        x = torch.where((x >> 23 & 0xFF) == 0xFF, 0, x)
        above = min((first >> 23 & 0xFF) + number // 2 % 28, 254) << 23 | 0x123456
        x = torch.cat([torch.tensor([above], dtype=torch.int32), x]).view(torch.float32)
        assert_same_fixed_point(cpu.quantize(x, 8, random), reference.quantize(x, 8, random))


@pytest.mark.parametrize('dtype', [torch.int8, torch.int16, torch.int32, torch.int64])
def test_dequantize(level, dtype):
    info = torch.iinfo(dtype)
    for shape in ((), (0,), (7,), (3, 5, 33), (70000,)):
        low, high = max(info.min, -(2**62) + 1), min(info.max, 2**62 - 1)
        x = torch.randint(low, high, shape, dtype=torch.int64)
        x = (x >> torch.randint(0, info.bits, shape)).to(dtype)
        for exponent in (-400, -180, -155, -149, -140, -127, -126, -60, 0, 60, 96, 97, 110, 300):
            assert_same(cpu.dequantize(x, exponent), reference.dequantize(x, exponent))
    x = torch.randint(-9, 9, (4, 6)).to(dtype).t()
    assert_same(cpu.dequantize(x, torch.tensor(-3)), reference.dequantize(x, -3))
