"""Which moment of a run the random bits and the errors of an operation name."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

import mmint
from mmint.backends import NonFiniteError
from mmint.layers import IntConv2d, IntLinear
from mmint.ops.checkpoint import make_checkpoint_replay
from mmint.ops.run import Moment, current_run

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


def forward(layer, x, *moment):
    """Output and input of a forward pass at a moment of the run."""
    mmint.begin_iteration(*moment)
    x = x.clone().requires_grad_()
    return layer(x), x


def gradients(layer, out, x):
    torch.manual_seed(0)
    return torch.autograd.grad(out, (x, *layer.parameters()), torch.randn_like(out))


def test_an_iteration_has_a_number_a_seed_and_a_rank():
    mmint.begin_iteration(3)
    assert current_run.moment() == Moment(seed=0, rank=0, iteration=3)
    mmint.begin_iteration(4, seed=5, rank=6)
    assert current_run.moment() == Moment(seed=5, rank=6, iteration=4)


def test_the_bits_depend_on_iteration_seed_and_rank():
    torch.manual_seed(0)
    layer, x = IntLinear(40, 30), torch.randn(8, 40)
    moments = [(0,), (1,), (0, 1), (0, 0, 1)]
    outs = [forward(layer, x, *moment)[0] for moment in moments]
    assert torch.equal(forward(layer, x, 0)[0], outs[0])
    assert not any(torch.equal(out, outs[0]) for out in outs[1:])


def test_errors_name_the_iteration():
    layer = IntLinear(4, 3)
    mmint.begin_iteration(12)
    with pytest.raises(NonFiniteError, match='iteration 12'):
        layer(torch.full((2, 4), torch.inf))


def test_a_backward_pass_belongs_to_the_moment_of_its_forward_pass():
    torch.manual_seed(0)
    layer, x = IntConv2d(3, 5, 3), torch.randn(2, 3, 8, 8)
    expected = gradients(layer, *forward(layer, x, 7, 1, 2))
    out, leaf = forward(layer, x, 7, 1, 2)
    mmint.begin_iteration(8, seed=3, rank=4)
    for one, other in zip(gradients(layer, out, leaf), expected, strict=True):
        assert torch.equal(one, other)


def test_gradients_that_meet_do_so_in_the_moment_of_the_forward_pass():
    torch.manual_seed(0)
    model, x = nn.ModuleList([IntLinear(6, 5), IntLinear(6, 5)]), torch.randn(4, 6)
    stem = IntLinear(6, 6)

    def passes(*later):
        out, leaf = forward(lambda x: sum(layer(y) for y in [stem(x)] for layer in model), x, 3, 1)
        if later:
            mmint.begin_iteration(*later)
        return gradients(model, out, leaf)

    for one, other in zip(passes(4, 2), passes(), strict=True):
        assert torch.equal(one, other)


def test_an_error_of_a_late_backward_pass_names_the_iteration_of_its_forward_pass():
    layer = IntLinear(4, 3)
    out, _ = forward(layer, torch.randn(2, 4), 5)
    mmint.begin_iteration(6)
    with pytest.raises(NonFiniteError, match='a gradient with .* iteration 5'):
        out.backward(torch.full((2, 3), torch.nan))


@pytest.mark.parametrize('reentrant', [True, False])
def test_what_is_recomputed_late_draws_what_the_first_pass_drew(reentrant, monkeypatch):
    stock = torch.utils.checkpoint.checkpoint
    stock = getattr(stock, '__wrapped__', stock)
    monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', stock)
    make_checkpoint_replay()
    torch.manual_seed(0)
    layer, x = IntConv2d(3, 5, 3), torch.randn(2, 3, 8, 8)
    expected = gradients(layer, *forward(layer, x, 7, 1, 2))

    def recomputed(x):
        return torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)

    out, leaf = forward(recomputed, x, 7, 1, 2)
    mmint.begin_iteration(8, seed=3, rank=4)
    torch.manual_seed(0)
    out.backward(torch.randn_like(out))
    for one, other in zip((leaf, *layer.parameters()), expected, strict=True):
        assert torch.equal(one.grad, other)
    assert current_run.moment() == Moment(3, 4, 8)
