"""Random bits depend on their name and on nothing else."""

import math

import pytest
import torch

from mmint.numerics import RandomBits, Role
from mmint.numerics.random_bits import MAX_ELEMENTS, philox

NAME = RandomBits(seed=11, rank=2, layer=5, iteration=1234, role=Role.GRADIENT, call=3)
MASK = 2**32 - 1


def philox_block(counter, key):
    """Philox 4x32-7 in Python integers, as the paper has it: one block."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(7):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & MASK, p0 >> 32 ^ c3 ^ k1, p0 & MASK
        k0, k1 = k0 + 0x9E3779B9 & MASK, k1 + 0xBB67AE85 & MASK
    return [c0, c1, c2, c3]


# The known answers that Random123, the authors' own library, ships (kat_vectors, philox4x32 7).
KNOWN_ANSWERS = [
    ('00000000 00000000 00000000 00000000', '00000000 00000000',
     '5f6fb709 0d893f64 4f121f81 4f730a48'),
    ('ffffffff ffffffff ffffffff ffffffff', 'ffffffff ffffffff',
     '5207ddc2 45165e59 4d8ee751 8c52f662'),
    ('243f6a88 85a308d3 13198a2e 03707344', 'a4093822 299f31d0',
     '4dfccaba 190a87f0 c47362ba b6b5242a'),
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
    """Element 128 g + 32 w + 16 h + 2 l takes half h of word w of block 8 g + l.

    The next one takes the complement.
    """
    drawn = name.draw(300).tolist()
    key = name.seed, name.layer
    for element, bits in enumerate(drawn):
        group, inside = divmod(element, 128)
        word, inside = divmod(inside, 32)
        half, inside = divmod(inside, 16)
        lane, second = divmod(inside, 2)
        block = 8 * group + lane
        counter = block, name.iteration, name.call << 8 | name.role, name.rank
        draw = philox_block(counter, key)[word] >> 16 * half & 0xFFFF
        assert bits == (2**16 - 1 - draw if second else draw)


def test_neighbours_are_antithetic():
    drawn = NAME.draw(1000)
    assert (drawn[0::2] + drawn[1::2] == 2**16 - 1).all()


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
    equal = (NAME.draw(8192)[::2] == changed.draw(8192)[::2]).sum()
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
    """Draws, one for each two neighbours, along a direction in which names vary."""
    zero = RandomBits(0, 0, 0, 0, Role.INPUT)
    if field == 'element':
        return zero.draw(2**19)[::2]
    names = [zero._replace(**{field: i}) for i in range(256)]
    return torch.stack([name.draw(2048)[::2] for name in names], dim=1).flatten()


def test_roles_are_independent():
    """No correlation between any two of them beyond 5 standard deviations."""
    zero = RandomBits(0, 0, 0, 0, Role.INPUT)
    drawn = torch.stack([zero._replace(role=role).draw(2**15)[::2] for role in Role]).double()
    correlation = torch.corrcoef(drawn) - torch.eye(len(Role))
    assert correlation.abs().max() < 5 / math.sqrt(2**14)


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
