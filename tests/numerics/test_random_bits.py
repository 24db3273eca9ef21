"""Random bits depend on their name and on nothing else."""

import math

import pytest
import torch

from mmint.numerics import RandomBits, Role
from mmint.numerics.random_bits import MAX_ELEMENTS, philox

NAME = RandomBits(seed=11, rank=2, layer=5, iteration=1234, role=Role.GRADIENT, call=3)
MASK = 2**32 - 1


def philox_block(counter, key):
    """Philox 4x32-10 in Python integers, as the paper has it: one block."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & MASK, p0 >> 32 ^ c3 ^ k1, p0 & MASK
        k0, k1 = k0 + 0x9E3779B9 & MASK, k1 + 0xBB67AE85 & MASK
    return [c0, c1, c2, c3]


# The known answers that Random123, the authors' own library, ships (kat_vectors, philox4x32 10).
KNOWN_ANSWERS = [
    ('00000000 00000000 00000000 00000000', '00000000 00000000',
     '6627e8d5 e169c58d bc57ac4c 9b00dbd8'),
    ('ffffffff ffffffff ffffffff ffffffff', 'ffffffff ffffffff',
     '408f276d 41c83b0e a20bc7c6 6d5451fd'),
    ('243f6a88 85a308d3 13198a2e 03707344', 'a4093822 299f31d0',
     'd16cfe09 94fdcceb 5001e420 24126ea1'),
]  # fmt: skip


@pytest.mark.parametrize('counter, key, answer', KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, answer):
    counter, key, answer = ([int(w, 16) for w in words.split()] for words in (counter, key, answer))
    assert philox_block(counter, key) == answer
    assert [int(w) for w in philox([torch.tensor([c]) for c in counter], tuple(key))] == answer


@pytest.mark.parametrize(
    'name',
    [
        NAME,
        RandomBits(0, 0, 0, 0, Role.INPUT),
        RandomBits(MASK, MASK, MASK, MASK, Role.SGD_UPDATE, 2**24 - 1),
    ],
)
def test_elements_lie_where_the_layout_says(name):
    """Element 64 g + 16 w + 2 l + h is half h of word w of block 8 g + l."""
    drawn = name.draw(300).tolist()
    key = name.seed, name.layer
    for element, bits in enumerate(drawn):
        group, inside = divmod(element, 64)
        word, inside = divmod(inside, 16)
        lane, half = divmod(inside, 2)
        block = 8 * group + lane
        counter = block, name.iteration, name.call << 8 | name.role, name.rank
        assert bits == philox_block(counter, key)[word] >> 16 * half & 0xFFFF


@pytest.mark.parametrize('numel', [0, 1, 15, 16, 63, 64, 65, 1000])
def test_bits_of_an_element_do_not_depend_on_how_many_there_are(numel):
    drawn = NAME.draw(numel)
    assert drawn.dtype == torch.int64 and drawn.shape == (numel,)
    assert torch.equal(drawn, NAME.draw(5000)[:numel])


@pytest.mark.parametrize(
    'other', ['seed', 'rank', 'layer', 'iteration', 'call', Role.INPUT], ids=str
)
def test_every_field_of_the_name_changes_the_bits(other):
    changed = (
        NAME._replace(role=other)
        if isinstance(other, Role)
        else NAME._replace(**{other: getattr(NAME, other) + 1})
    )
    equal = (NAME.draw(4096) == changed.draw(4096)).sum()
    assert equal <= 5  # 4096 / 2**16 are equal by chance; more than 5 with probability 1e-10


def test_fields_do_not_run_into_each_other():
    """Distinct names, distinct words: a role is no call, a layer no seed, a rank no iteration."""
    names = [
        RandomBits(seed, rank, layer, iteration, role, call)
        for seed in (0, 1)
        for rank in (0, 1)
        for layer in (0, 1)
        for iteration in (0, 1)
        for role in Role
        for call in (0, 1, 256)
    ]
    assert len({name.words() for name in names}) == len(names)
    assert len({tuple(name.draw(8).tolist()) for name in names}) == len(names)


def chi_square(counts):
    """The statistic's distance from its mean, in its standard deviations."""
    free = counts.numel() - 1
    mean = counts.sum() / counts.numel()
    return float((((counts - mean) ** 2 / mean).sum() - free) / math.sqrt(2 * free))


def stream(field):
    """Draws along one of the directions in which names vary."""
    zero = RandomBits(0, 0, 0, 0, Role.INPUT)
    if field == 'element':
        return zero.draw(2**18)
    names = [zero._replace(**{field: i}) for i in range(256)]
    return torch.stack([name.draw(64) for name in names], dim=1).flatten()


@pytest.mark.parametrize('field', ['element', 'iteration', 'call', 'layer', 'seed', 'rank'])
def test_bits_are_uniform_and_independent(field):
    """Within 5 standard deviations: each byte's chi-square, each bit's mean, each neighbour."""
    drawn = stream(field)
    assert drawn.min() >= 0 and drawn.max() < 2**16
    for byte in (drawn & 255, drawn >> 8):
        assert abs(chi_square(torch.bincount(byte, minlength=256).double())) < 5
    for bit in range(16):
        ones = (drawn >> bit & 1).double()
        assert abs(ones.mean() - 0.5) < 5 * 0.5 / math.sqrt(len(drawn))
    centred = drawn.double() - 32767.5
    correlation = (centred[1:] * centred[:-1]).mean() / centred.square().mean()
    assert abs(correlation) < 5 / math.sqrt(len(drawn))


def test_more_elements_than_there_are_blocks_are_refused():
    with pytest.raises(ValueError, match=f'at most {MAX_ELEMENTS} have random bits'):
        NAME.draw(MAX_ELEMENTS + 1)
