"""What a tensor keeps of the operations that used it, and for how long."""

import copy
import gc
import io
import weakref

import pytest
import torch

from mmint.layers import IntLinear

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


@pytest.fixture
def used():
    """A leaf with a gradient, after a forward pass."""
    torch.manual_seed(0)
    x = torch.randn(4, 9, requires_grad=True)
    IntLinear(9, 5)(x)
    return x


def saved(x):
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize('duplicate', [copy.copy, copy.deepcopy, saved])
def test_an_input_may_be_copied_and_saved(duplicate, used):
    twin = duplicate(used).detach().requires_grad_()
    layer = IntLinear(9, 5)
    layer(twin).sum().backward()
    assert torch.equal(twin, used) and twin.grad is not None and used.grad is None


def test_a_copy_of_an_input_has_a_gradient_of_its_own(used):
    twin = copy.deepcopy(used)
    IntLinear(9, 5)(twin).sum().backward()
    assert twin.grad is not None and used.grad is None


def test_an_input_that_wants_a_gradient_dies_after_its_backward_pass():
    layer = IntLinear(9, 5)
    gc.disable()
    try:
        x = torch.randn(4, 9, requires_grad=True)
        (layer(x) + layer(x)).sum().backward()
        seen = weakref.ref(x)
        del x
        assert seen() is None
    finally:
        gc.enable()
