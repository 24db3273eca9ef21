"""Which bits an optimizer draws: others than the next one, the same as its copies."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from mmint.ops.run import begin_iteration
from mmint.optim import IntSGD

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')

SETTINGS = dict(lr=0.1, momentum=0.9)


def parameter():
    return nn.Parameter(torch.linspace(-1, 1, 1000))


def step(optimizer):
    (param,) = optimizer.param_groups[0]['params']
    param.grad = torch.linspace(-2, 3, 1000)
    optimizer.step()
    return param.detach().clone()


def pickled(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


def saved(optimizer):
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_two_optimizers_draw_different_bits():
    first, second = (IntSGD([parameter()], **SETTINGS) for _ in range(2))
    assert not torch.equal(step(first), step(second))


def test_a_run_numbers_its_optimizers_from_zero():
    def run():
        optimizers = [IntSGD([parameter()], **SETTINGS) for _ in range(2)]
        begin_iteration(0)
        return [step(optimizer) for optimizer in optimizers]

    for one, other in zip(run(), run(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize('duplicate', [copy.deepcopy, pickled, saved])
def test_a_copy_goes_on_as_the_original(duplicate):
    IntSGD([parameter()], lr=0.1)
    original = IntSGD([parameter()], **SETTINGS)
    original.name_parameters([('weight', original.param_groups[0]['params'][0])])
    step(original)
    twin = duplicate(original)
    assert (twin.steps, twin.number) == (1, 1)
    (param,) = twin.param_groups[0]['params']
    assert twin.names == {param: 'weight'}
    assert torch.equal(step(twin), step(original))


def test_a_resumed_optimizer_keeps_its_number():
    IntSGD([parameter()], lr=0.1)
    original = IntSGD([parameter()], **SETTINGS)
    values = step(original)
    begin_iteration(0)
    resumed = IntSGD([nn.Parameter(values)], **SETTINGS)
    resumed.load_state_dict(original.state_dict())
    assert torch.equal(step(resumed), step(original))


def test_a_state_of_float_sgd_leaves_the_number():
    stock = torch.optim.SGD([parameter()], **SETTINGS)
    step(stock)
    IntSGD([parameter()], lr=0.1)
    optimizer = IntSGD([parameter()], **SETTINGS)
    optimizer.load_state_dict(stock.state_dict())
    assert optimizer.number == 1
