"""Neighbours that share a draw: their errors cancel in part, and never add up."""

import pytest
import torch
import torch.nn.functional as F

from mmint.backends.reference.mapping import mantissa_at, shared_exponent
from mmint.numerics import RandomBits, Role
from mmint.numerics.float32 import split_sign
from mmint.numerics.integers import shift_right_stochastic

DRAWS = 40


def test_errors_of_two_neighbours_never_correlate_positively():
    """Exact, over all draws: whatever their fractions and signs, to a unit's 32nd part."""
    drawn = torch.arange(2**16).unsqueeze(1)
    values, five = torch.arange(-32, 32), torch.tensor(5)
    first = shift_right_stochastic(values, five, drawn).double() - values / 32
    second = shift_right_stochastic(values, five, 2**16 - 1 - drawn).double() - values / 32
    covariance = first.T @ second / 2**16
    assert covariance.max() <= 2**-16
    assert covariance.min() < -0.24  # of two halves, one always goes up and the other down


@pytest.fixture(scope='module')
def trained():
    """A convolution in a small network after training: input, weight and gradient of its output.

    The network tells the strongest colour of each pixel of smooth images.
    """
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1)
    last = torch.nn.Conv2d(8, 3, 1)
    layers = torch.nn.ModuleList([first, second, last])
    optimizer = torch.optim.SGD(layers.parameters(), 0.1, momentum=0.9)
    for _ in range(60):
        images = F.interpolate(torch.randn(16, 3, 4, 4), size=16, mode='bilinear')
        hidden = first(images).relu()
        made = second(hidden)
        made.retain_grad()
        loss = F.cross_entropy(last(made.relu()), images.argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.6  # by chance: 1.1
    return hidden.detach()[:4], second.weight.detach(), made.grad[:4]


def mapped(x, drawn):
    exponent = shared_exponent(split_sign(x)[1], 8)
    return mantissa_at(x, exponent, drawn).double() * 2.0**exponent


def spread(product, exact, independent):
    """The variance that mapping the operands adds to a product, and its standard error."""
    torch.manual_seed(1)
    squares = []
    for i in range(DRAWS):
        operands = []
        for role, x in zip((Role.INPUT, Role.WEIGHT, Role.GRADIENT), exact, strict=True):
            drawn = RandomBits(0, 0, 0, i, role).draw(x.numel())
            if independent:
                drawn = torch.randint(2**16, (x.numel(),))
            operands.append(mapped(x, drawn.view(x.shape)))
        error = product(*operands) - product(*(x.double() for x in exact))
        squares.append(error.square().sum())
    squares = torch.stack(squares)
    return squares.mean(), squares.std() / DRAWS**0.5


PRODUCTS = {
    'output': lambda x, w, g: F.conv2d(x, w, padding=1),
    'input gradient': lambda x, w, g: torch.nn.grad.conv2d_input(x.shape, w, g, padding=1),
    'weight gradient': lambda x, w, g: torch.nn.grad.conv2d_weight(x, w.shape, g, padding=1),
}


@pytest.mark.parametrize('name', PRODUCTS)
def test_sums_on_a_trained_network_vary_no_more_than_with_independent_bits(name, trained):
    """At 3 standard errors of the difference of both variances."""
    shared, shared_error = spread(PRODUCTS[name], trained, independent=False)
    independent, independent_error = spread(PRODUCTS[name], trained, independent=True)
    print(f'{name}: {shared / independent:.3f} of the variance')
    assert shared - independent < 3 * torch.hypot(shared_error, independent_error)
