"""The largest magnitude that a kernel noted: used while it is true, and never afterwards."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mmint.backends import NonFiniteError, cpu, reference, watched
from mmint.backends.magnitudes import known_magnitude, remember_magnitude
from mmint.conversion import convert
from mmint.numerics import RandomBits, Role
from mmint.ops.run import current_run

BITS = RandomBits(seed=7, rank=1, layer=3, iteration=11, role=Role.INPUT, call=2)


def top_of(x):
    return int((x.detach().contiguous().view(torch.int32) & 0x7FFFFFFF).max())


def noted(x):
    remember_magnitude(x, top_of(x))
    return x


# ---- how long it counts ----


def test_it_counts_for_the_tensor_and_what_reshapes_it():
    x = noted(torch.randn(4, 6))
    assert known_magnitude(x) == top_of(x)
    assert known_magnitude(x.view(2, 12)) == known_magnitude(x.flatten()) == top_of(x)
    assert known_magnitude(x.detach().clone()) is None


@pytest.mark.parametrize(
    'part',
    [
        lambda x: x[:2],
        lambda x: x[:1].expand(4, 6),
        lambda x: x.as_strided((4, 6), (0, 1)),
        lambda x: x.t(),
        lambda x: x.view(torch.int32),
    ],
)
def test_it_does_not_count_for_other_views(part):
    assert known_magnitude(part(noted(torch.randn(4, 6)))) is None


@pytest.mark.parametrize(
    'change',
    [
        lambda x: x.mul_(2),
        lambda x: x[1:].zero_(),
        lambda x: x.view(-1).add_(1),
        lambda x: x.detach().neg_(),
        lambda x: torch.add(x, 1, out=x),
        lambda x: x.set_(torch.randn(4, 6)),
    ],
)
def test_a_change_makes_it_void(change):
    x = noted(torch.randn(4, 6))
    reshaped = x.view(-1)
    change(x)
    assert known_magnitude(x) is None and known_magnitude(reshaped) is None


def test_a_copy_knows_nothing():
    x = noted(torch.randn(4, 6))
    assert known_magnitude(copy.deepcopy(x)) is None


def test_inference_mode_goes_without():
    with torch.inference_mode():
        assert known_magnitude(noted(torch.randn(4))) is None


# ---- what the mapping does with it ----


@pytest.mark.parametrize('bits', [4, 8, 16])
@pytest.mark.parametrize('shape', [(1000,), (2, 3, 33, 21)])
def test_a_mapping_with_a_given_maximum_is_the_reference_s(bits, shape):
    x = torch.randn(shape)
    for top in (top_of(x), top_of(3 * x), top_of(torch.tensor(127.0))):
        for random in (None, BITS):
            given = cpu.quantize(x, bits, random, top)
            expected = reference.quantize(x, bits, random, top)
            assert torch.equal(given.mantissa, expected.mantissa)
            assert torch.equal(given.exponent, expected.exponent)


def test_a_mapping_believes_what_was_noted():
    x = torch.randn(100)
    remember_magnitude(x, top_of(torch.tensor(100.0)))
    assert int(cpu.quantize(x, 8, None).exponent) == 0
    assert int(cpu.quantize(x.clone(), 8, None).exponent) < 0


def test_a_maximum_that_is_not_finite_stops_the_mapping():
    x = torch.tensor([1.0, float('inf')])
    with pytest.raises(NonFiniteError):
        cpu.quantize(noted(x), 8, None)
    huge = cpu.quantize(torch.full((2, 2), 3e38), 8, None)
    overflow = cpu.matmul(huge, huge)
    assert known_magnitude(overflow) == 0x7F800000
    with pytest.raises(NonFiniteError):
        cpu.quantize(overflow, 8, None)


# ---- whole networks ----


@pytest.fixture
def mappings():
    """The name of each tensor mapped, and whether its maximum was known."""
    seen = []

    def noted(name, operation, args, kwargs):
        if name == 'quantize':
            x, _, random = args[:3]
            known = known_magnitude(x) if isinstance(x, Tensor) else None
            assert known is None or known == top_of(x)
            seen.append((None if random is None else random.role.name, known is not None))
        return operation(*args, **kwargs)

    with watched(noted):
        yield seen


class Network(nn.Module):
    """Convolutions, ReLU in place and not, pooling, branches that meet, linear layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, groups=16)
        self.left, self.right = nn.Conv2d(16, 16, 1), nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.head, self.last = nn.Linear(16 * 36, 10), nn.Linear(10, 4)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.plain_relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.deep(self.pool(self.relu(self.stem(x)))))
        joined = self.left(x) + self.pool(self.right(x))
        return self.last(self.plain_relu(self.head(joined.flatten(1)))).sum()


def gradients(model, x):
    current_run.calls.clear()
    model.zero_grad()
    loss = model(x)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


def test_a_network_knows_its_maxima_and_computes_the_same(mappings, monkeypatch):
    torch.manual_seed(0)
    model = Network()
    convert(model)
    x = torch.randn(2, 3, 16, 16)
    with_tops = gradients(model, x)
    inputs = [known for role, known in mappings if role == 'INPUT']
    grads = [known for role, known in mappings if role == 'GRADIENT']
    assert inputs == [False, True, True, True, True, True]  # not the image
    # Not what the loss hands back, nor what is read through the mask of a ReLU.
    assert grads == [False, True, True, True, False, False]
    for kernels in (cpu.addition, cpu.activation, cpu.max_pooling, cpu.products):
        monkeypatch.setattr(kernels, 'remember_magnitude', lambda x, top: None)
    mappings.clear()
    without = gradients(model, x)
    assert not any(known for _, known in mappings)
    assert all(map(torch.equal, with_tops, without))
