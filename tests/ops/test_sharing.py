"""Gradients of a parameter that several operations use are summed in integers."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.utils.checkpoint
from stock_code import assert_all_same, assert_same, convert_, float_sums, mapper
from torch import nn

from mmint import ops
from mmint.layers import IntBatchNorm2d, IntConv2d, IntGroupNorm, IntLayerNorm, IntLinear
from mmint.numerics import Role
from mmint.ops import sharing
from mmint.ops.checkpoint import make_checkpoint_replay
from mmint.ops.mapper import SUM_BITS
from mmint.ops.run import Moment, Site, current_run
from mmint.ops.weights import map_weight

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


def linear(weight, x, call):
    """A use of ``weight``, number ``call`` of one layer."""
    one = mapper(call=call)
    return ops.linear(x, weight, map_weight(weight, one), None, one)


def gradients_alone(weight, inputs, grads):
    """The weight gradient of each use, as if it were the only one."""
    alone = []
    for call, (x, grad) in enumerate(zip(inputs, grads, strict=True)):
        twin = nn.Parameter(weight.detach().clone())
        linear(twin, x, call).backward(grad)
        alone.append(twin.grad)
    return alone


def added(backend, a, b, call):
    random = Site('block', 5).random_bits(Role.WEIGHT_GRADIENT_SUM, call, Moment(0, 0, 0))
    return backend.add(a, b, SUM_BITS, random)


@pytest.fixture
def uses():
    """A weight, three inputs and the gradients of three outputs."""
    weight = nn.Parameter(torch.randn(5, 9))
    return weight, [torch.randn(4, 9) for _ in range(3)], [torch.randn(4, 5) for _ in range(3)]


def test_gradients_are_a_chain_of_integer_sums_the_latest_first(backend, uses):
    weight, inputs, grads = uses
    one, two, three = gradients_alone(*uses)
    torch.autograd.backward([linear(weight, x, i) for i, x in enumerate(inputs)], grads)
    assert_same(weight.grad, added(backend, one, added(backend, two, three, 1), 0))


def test_only_operations_of_the_backward_pass_meet(backend, uses):
    """An output that no loss uses, or a graph that is kept, does not wait for the others."""
    weight, inputs, grads = uses
    one, two, three = gradients_alone(*uses)
    outs = [linear(weight, x, i) for i, x in enumerate(inputs)]
    torch.autograd.backward(outs[1:], grads[1:], retain_graph=True)
    assert_same(weight.grad, added(backend, two, three, 1))
    weight.grad = None
    torch.autograd.backward(outs[:2], grads[:2], retain_graph=True)
    assert_same(weight.grad, added(backend, one, two, 0))
    weight.grad = None
    outs[2].backward(grads[2], retain_graph=True)
    assert_same(weight.grad, three)
    (grad,) = torch.autograd.grad(outs, weight, grads)
    assert_same(grad, added(backend, one, added(backend, two, three, 1), 0))


def test_a_parameter_used_once_has_no_hook(uses, calls):
    weight, inputs, grads = uses
    for x, grad in zip(inputs, grads, strict=True):
        out = linear(weight, x, 0)
        out.backward(grad)
        out = None  # so that the next is a first one again
    assert calls['add'] == 0 and not sharing._all_uses


def test_iterations_whose_graphs_overlap_have_the_gradients_of_any_others(uses):
    """As in a loop that keeps the last loss until the next forward pass is over."""
    weight, inputs, grads = uses
    alone, last = gradients_alone(*uses), []
    for i, (x, grad) in enumerate(zip(inputs, grads, strict=True)):
        weight.grad = None
        last.append(linear(weight, x, i))
        last[-1].backward(grad)
        assert_same(weight.grad, alone[i])


def test_a_backward_pass_that_failed_leaves_nothing_to_the_next(uses):
    weight, inputs, grads = uses

    class Fails(Exception):
        pass

    def fails(grad):
        raise Fails

    outs = [linear(weight, x.requires_grad_(), i) for i, x in enumerate(inputs)]
    hook = outs[0].register_hook(fails)
    with pytest.raises(Fails):
        torch.autograd.backward(outs, grads, retain_graph=True)
    hook.remove()
    weight.grad = None
    torch.autograd.backward(outs, grads)
    again = nn.Parameter(weight.detach().clone())
    torch.autograd.backward([linear(again, x, i) for i, x in enumerate(inputs)], grads)
    assert_same(weight.grad, again.grad)


def test_the_parameter_is_told_once(uses):
    """As DistributedDataParallel and gradient hooks expect."""
    weight, inputs, grads = uses
    told = []
    weight.register_hook(lambda grad: told.append('gradient'))
    weight.register_post_accumulate_grad_hook(lambda _: told.append('accumulated'))
    torch.autograd.backward([linear(weight, x, i) for i, x in enumerate(inputs)], grads)
    assert told == ['gradient', 'accumulated']


LAYERS = {
    'conv': lambda: IntConv2d(6, 6, 3, padding=1),
    'linear': lambda: nn.Sequential(nn.Flatten(0, 2), IntLinear(5, 5), nn.Unflatten(0, (2, 6, 5))),
    'batch norm': lambda: IntBatchNorm2d(6),
    'frozen norm': lambda: IntBatchNorm2d(6).eval(),
    'group norm': lambda: IntGroupNorm(2, 6),
    'layer norm': lambda: IntLayerNorm(5),
}


@pytest.mark.parametrize('case', LAYERS)
def test_every_layer_shares_weight_and_bias(case, calls):
    layer = LAYERS[case]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.rand_like(parameter))
    levels = [torch.randn(2, 6, n, 5) for n in (5, 5, 5)]
    twin = copy.deepcopy(layer)
    outs = [layer(x) for x in levels]
    grads = [torch.randn_like(out) for out in outs]
    torch.autograd.backward(outs, grads)
    assert calls['add'] == 2 * 2
    for out, grad in zip([twin(x) for x in levels], grads, strict=True):
        out.backward(grad)
    for ours, stock in zip(layer.parameters(), twin.parameters(), strict=True):
        # Other random bits: only the sizes are the same.
        assert (ours.grad - stock.grad).abs().max() < 0.1 * stock.grad.abs().max()


class Head(nn.Module):
    """As of a detector: one convolution and norm for every level."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)

    def forward(self, *levels):
        return tuple(self.norm(self.conv(x)) for x in levels)


def test_a_head_of_several_levels_adds_no_gradients_in_float():
    model = Head()
    levels = [torch.randn(1, 4, n, n, requires_grad=True) for n in (7, 5, 3)]
    assert float_sums(model, *levels) == 2 * 4  # two sums for each of four parameters
    assert float_sums(convert_(model), *levels) == 0


def test_gradients_accumulate_over_iterations_as_ever(uses):
    weight, inputs, grads = uses
    for _ in range(2):
        torch.autograd.backward([linear(weight, x, i) for i, x in enumerate(inputs)], grads)
    twice, weight.grad = weight.grad, None
    torch.autograd.backward([linear(weight, x, i) for i, x in enumerate(inputs)], grads)
    assert_same(twice, weight.grad * 2)


@pytest.mark.parametrize('reentrant', [True, False])
def test_recomputed_operations_have_the_gradients_of_others(reentrant, monkeypatch):
    stock = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', getattr(stock, '__wrapped__', stock))
    make_checkpoint_replay()
    model = convert_(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4))
    levels = [torch.randn(1, 4, n, n, requires_grad=True) for n in (7, 5, 3)]

    def gradients(call):
        current_run.begin_iteration(1)
        model.zero_grad()
        outs = [call(x) for x in levels]
        torch.autograd.backward(outs, [torch.linspace(-1, 1, o.numel()).view_as(o) for o in outs])
        return [p.grad for p in model.parameters()]

    checkpoint = torch.utils.checkpoint.checkpoint
    together = gradients(lambda x: checkpoint(model, x, use_reentrant=reentrant))
    if reentrant:  # every call is a backward pass of its own, after which PyTorch adds
        for a, b in zip(together, gradients(model), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-3 * float(b.abs().max()))
    else:
        assert_all_same(together, gradients(model))


def test_nothing_stays_of_a_graph(uses):
    weight, inputs, _ = uses
    gc.collect()
    gc.disable()
    try:
        outs = [linear(weight, x, i) for i, x in enumerate(inputs)]
        nodes = [weakref.ref(out.grad_fn) for out in outs]
        (outs[0].sum() + outs[1].sum()).backward()
        del outs
        assert not any(ref() is not None for ref in nodes) and not sharing._all_uses
    finally:
        gc.enable()


def test_a_parameter_in_use_may_be_copied_and_pickled(uses):
    weight, inputs, grads = uses
    outs = [linear(weight, x, i) for i, x in enumerate(inputs)]
    for twin in (copy.deepcopy(weight), pickle.loads(pickle.dumps(weight))):
        assert torch.equal(twin, weight)
        linear(twin, inputs[0], 0).backward(grads[0])
        assert twin.grad is not None and weight.grad is None
    del outs
