"""Gradients that meet at a tensor are summed in integers."""

import gc
import weakref

import pytest
import torch
import torch.utils.checkpoint
from stock_code import Attention, Residual, assert_same, convert_, mapper
from torch import nn

from mmint.numerics import Role, Site
from mmint.ops.fork import use
from mmint.ops.function import SUM_BITS

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


def branch(uses, x):
    """Uses ``x`` once for each gradient, and lets these flow back; returns what reaches ``x``."""
    reached = []
    x.register_hook(reached.append)
    aliases = [use(x, mapper(call=i), role) for i, (role, _) in enumerate(uses)]
    assert all(alias is not x and torch.equal(alias, x) for alias in aliases)
    torch.autograd.backward(aliases, [grad for _, grad in uses])
    return reached[0]


def test_gradients_are_a_chain_of_integer_sums(backend):
    one, two, three = (torch.randn(4, 9) for _ in range(3))
    roles = Role.GRADIENT_SUM, Role.OTHER_GRADIENT_SUM

    def added(a, b, role, call):
        random = Site('block', 5).random_bits(role, call)
        return backend.add(a, b, SUM_BITS, random)

    def leaf():
        return torch.randn(4, 9, requires_grad=True)

    assert_same(branch([(roles[0], one)], leaf()), one)
    assert_same(
        branch([(roles[0], one), (roles[1], two)], leaf() * 2), added(one, two, roles[0], 0)
    )
    assert_same(
        branch([(roles[0], one), (roles[1], two), (roles[0], three)], leaf() * 2),
        added(one, added(two, three, roles[1], 1), roles[0], 0),
    )


def test_an_unused_branch_passes_the_gradient_on(backend, calls):
    x = torch.randn(4, 9, requires_grad=True)
    grad = torch.randn(4, 9)
    first, second = use(x, mapper()), use(x, mapper(call=1))
    second.backward(grad)
    assert_same(x.grad, grad)
    assert calls['add'] == 0 and first.grad_fn is not None


def test_a_tensor_written_between_its_uses_has_two_gradients():
    leaf = torch.randn(4, 9, requires_grad=True)
    x = leaf * 1
    before = use(x, mapper()).clone()
    x.mul_(3)
    after = use(x, mapper(call=1)) * 1
    assert torch.equal(after, before * 3)
    (before.sum() + after.sum()).backward()
    assert torch.equal(leaf.grad, torch.full((4, 9), 4.0))


def test_no_gradient_no_fork():
    x = torch.randn(4, 9, requires_grad=True)
    assert use(x.detach(), mapper()).grad_fn is None
    with torch.no_grad():
        assert use(x, mapper()) is x
    with torch.inference_mode():
        y = x * 2
        assert use(y, mapper()) is y
    parameter = nn.Parameter(torch.randn(4))
    assert use(parameter, mapper()) is parameter


def forks_below(x):
    node, count = x.grad_fn, 0
    while node is not None:
        count += '_Fork' in node.name()
        node = node.next_functions[0][0] if node.next_functions else None
    return count


def test_a_tensor_used_again_after_its_backward_pass_starts_anew():
    x = torch.randn(4, 9, requires_grad=True)
    for _ in range(3):
        alias = use(x, mapper())
        assert forks_below(alias) == 1
        alias.sum().backward()
    assert torch.equal(x.grad, torch.full((4, 9), 3.0))


def test_a_graph_may_be_gone_through_twice():
    x = torch.randn(4, 9, requires_grad=True)
    total = use(x, mapper()).sum() + use(x, mapper(call=1)).sum()
    total.backward(retain_graph=True)
    total.backward()
    assert torch.equal(x.grad, torch.full((4, 9), 4.0))


@pytest.mark.parametrize('backward', [False, True])
def test_tensors_die_without_the_garbage_collector(backward):
    model = convert_(Residual(), nn.Conv2d(4, 30, 1), Attention(30, 3))
    gc.collect()
    gc.disable()
    try:
        seen = []
        hooks = [
            m.register_forward_hook(
                lambda _, args, out: seen.extend(map(weakref.ref, (args[0], out)))
            )
            for m in model.modules()
        ]
        out = model(torch.randn(1, 4, 5, 5, requires_grad=True) * 1)
        if backward:
            out.sum().backward()
        del out
        for hook in hooks:
            hook.remove()
        assert len(seen) > 8 and not any(ref() is not None for ref in seen)
    finally:
        gc.enable()
