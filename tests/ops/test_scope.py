"""Where stock code is computed in integers: inside converted modules, and nowhere else."""

import copy
import io
import threading

import pytest
import torch
import torch.utils.checkpoint
from stock_code import Attention, Residual, assert_all_same, convert_, in_scope, trained
from torch import nn

from mmint.conversion import convert, register_bits
from mmint.ops.checkpoint import make_checkpoint_replay
from mmint.ops.scope import current_place

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


def test_a_module_left_out_stays_in_float_inside_and_beside_others(calls):
    x = torch.randn(1, 4, 5, 5)

    def additions(**settings):
        calls.clear()
        model = nn.Sequential(Residual(), nn.Sequential(Residual(), Residual()), Residual())
        convert(model, **settings)
        model(x)
        return calls['add'], calls['conv2d']

    assert additions() == (4, 4)
    assert additions(exclude=['1']) == (2, 2)
    assert additions(exclude=['1.0']) == (3, 3)
    assert additions(include=['1']) == (2, 2)
    assert additions(include=['1'], exclude=['1.1']) == (1, 1)


def test_an_outer_block_left_out_has_integer_ones_inside(calls):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.other = Residual(), Residual()

        def forward(self, x):
            before = self.inner(x) + x
            return self.other(before) + x

    model = Outer()
    convert(model, include=['inner'])
    model(torch.randn(1, 4, 5, 5))
    assert calls['add'] == 1


class Head(nn.Module):
    """As those of mmseg: the loss calls ``forward`` by its name, and adds tensors of its own."""

    def __init__(self):
        super().__init__()
        self.block = Residual()

    def forward(self, x):
        return self.block(x) + x

    def loss(self, x):
        out = self.forward(x)
        return (out + x).square().sum()


def test_losses_stay_in_float(calls):
    head = convert_(Head())
    head.loss(torch.randn(1, 4, 5, 5))
    assert calls['add'] == 2


def test_a_forward_pass_that_holds_losses_stays_in_float(calls, monkeypatch):
    class Model(Head):
        def forward(self, x):
            return self.loss(super().forward(x))

        def loss(self, out):
            return (out + out).sum()

    monkeypatch.setattr('mmint.conversion.registered._least_bits', {})
    register_bits(Model, None)
    convert_(Model())(torch.randn(1, 4, 5, 5))
    assert calls['add'] == 1


def test_an_error_leaves_the_scope():
    def fails(x):
        raise KeyError

    with pytest.raises(KeyError):
        in_scope(fails, torch.randn(2, 5))
    assert current_place() is None


def test_threads_have_scopes_of_their_own(calls):
    """One enters and leaves while another is inside."""
    entered, left = threading.Event(), threading.Event()

    def waits(x):
        entered.set()
        assert left.wait(10)
        return x + x

    x = torch.randn(2, 5)
    thread = threading.Thread(target=in_scope, args=(waits, x))
    thread.start()
    assert entered.wait(10) and current_place() is None
    in_scope(lambda x: x + x, x)
    left.set()
    thread.join()
    in_scope(lambda x: x + x, x)
    assert calls['add'] == 3 and current_place() is None


def copied(model):
    return copy.deepcopy(model)


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize('duplicate', [copied, pickled])
def test_a_copy_computes_the_same_with_parameters_of_its_own(duplicate, calls):
    model, x = convert_(Residual(), Residual()), torch.randn(2, 4, 5, 5)
    twin = duplicate(model)
    assert all(m.forward.module is m for m in twin if isinstance(m, Residual))
    assert_all_same(trained(twin, x), trained(model, x))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert model.training and any(p.any() for p in model.parameters())


class Checkpointed(nn.Module):
    """Two blocks, the second of which may be recomputed."""

    def __init__(self, reentrant):
        super().__init__()
        self.first, self.second = Residual(), nn.Sequential(Residual(), Attention(4, 2))
        self.reentrant = reentrant

    def forward(self, x):
        x = self.first(x)
        if self.reentrant is None:
            return self.second(x)
        return torch.utils.checkpoint.checkpoint(self.second, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize('reentrant', [True, False])
def test_recomputation_gives_the_same_gradients(reentrant, monkeypatch):
    stock = torch.utils.checkpoint.checkpoint
    stock = getattr(stock, '__wrapped__', stock)
    monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', stock)
    make_checkpoint_replay()
    x = torch.randn(2, 4, 5, 5)
    plain, recomputed = Checkpointed(None), Checkpointed(reentrant)
    recomputed.load_state_dict(plain.state_dict())
    assert_all_same(trained(convert_(recomputed), x), trained(convert_(plain), x))
