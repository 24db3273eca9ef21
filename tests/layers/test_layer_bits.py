"""Random bits and mapped weights of a layer: when they are drawn, which, and how often."""

import copy
import io
from collections import defaultdict

import pytest
import torch
import torch.utils.checkpoint
from layer_cases import bias_units, build, mapped, run, units, weight_units
from torch import nn

from mmint import backends
from mmint.numerics import Role
from mmint.ops.run import current_run
from mmint.ops.saved import mapped as mapped_for_use

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


def test_same_seed_and_iteration_give_the_same_bits_and_others_others():
    layer, _, x, grad = build('conv-3x3')

    def at(seed, iteration):
        current_run.seed = seed
        current_run.begin_iteration(iteration)
        return run(layer, x, grad)

    first = at(0, 0)
    for other in ((0, 1), (1, 2)):
        for a, b in zip(first, at(*other), strict=True):
            assert not torch.equal(a, b)
    for a, b in zip(first, at(0, 0), strict=True):
        assert torch.equal(a, b)


def test_another_seed_maps_the_weight_anew_within_the_same_iteration():
    layer, _, _, _ = build('conv-3x3')
    first = mapped_for_use(layer.mapped_weight().forward)
    current_run.seed = 1
    assert not torch.equal(first.mantissa, mapped_for_use(layer.mapped_weight().forward).mantissa)


def test_two_calls_in_one_iteration_draw_different_bits():
    layer, _, x, grad = build('conv-3x3')
    first, second = run(layer, x, grad), run(layer, x, grad)
    for a, b in zip(first[:3], second[:3], strict=True):
        assert not torch.equal(a, b)


@pytest.mark.parametrize(
    'case', ['conv-3x3', 'conv-reflect', 'conv1d', 'conv3d', 'transposed-stride', 'linear']
)
def test_evaluation_rounds_to_nearest_and_draws_nothing(case):
    layer, twin, x, _ = build(case)
    layer.eval()
    outs = []
    with torch.no_grad():
        for seed, iteration in ((0, 0), (1, 0), (0, 1)):
            current_run.seed = seed
            current_run.begin_iteration(iteration)
            outs += [layer(x), layer(x)]
        of_weight, _ = weight_units(layer)
        twin.weight.data = mapped(layer.weight.detach(), 8, None, of_weight)
        step = bias_units(layer, units(x, 8, 1, 1), of_weight)
        twin.bias.data = torch.round(layer.bias.double() / step) * step
        want = twin(mapped(x, 8, None)).float()
    for out in outs:
        assert torch.equal(out, want)


@pytest.fixture
def mappings(backend):
    """The mantissas that are made, by the role of the tensor."""
    made = defaultdict(list)

    def noted(name, operation, args, kwargs):
        out = operation(*args, **kwargs)
        if name == 'quantize':
            made[args[2].role].append(out.mantissa)
        return out

    with backends.watched(noted):
        yield made


@pytest.mark.parametrize('case', ['conv-3x3', 'conv3d', 'transposed-stride', 'linear'])
def test_a_weight_has_the_same_bits_all_through_an_iteration(case, mappings):
    layer, _, x, grad = build(case)
    for iteration in range(3):
        current_run.begin_iteration(iteration)
        mappings.clear()
        for _ in range(4):
            run(layer, x, grad)
        for role in (Role.WEIGHT, Role.INPUT, Role.WEIGHT_OF_GRADIENT):
            assert len(mappings[role]) == 4
        for role in (Role.WEIGHT, Role.WEIGHT_OF_GRADIENT):
            first, *others = mappings[role]
            assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize('case', ['conv-3x3', 'conv3d', 'transposed-stride', 'linear'])
def test_a_gradient_is_mapped_once_for_both_products(case, mappings):
    layer, _, x, grad = build(case)
    run(layer, x, grad)
    assert len(mappings[Role.GRADIENT]) == 1


def test_a_changed_weight_is_mapped_anew():
    """Within an iteration too: by an optimizer, a checkpoint, a new tensor, a change of mode."""
    layer, _, x, _ = build('linear')
    layer.eval()
    other = build('linear', seed=1)[0]
    with torch.no_grad():
        layer(x)
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(x), other.eval()(x))
        layer.weight.add_(1)
        other.weight.add_(1)
        assert torch.equal(layer(x), other(x))
        layer.weight = nn.Parameter(other.weight * 2)
        other.weight.mul_(2)
        assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize('case', ['conv-3x3', 'transposed-stride', 'linear'])
def test_gradients_that_nobody_wants_are_not_computed(case):
    layer, _, x, grad = build(case)
    layer.weight.requires_grad_(False)
    inputs = x.clone().requires_grad_()
    layer(inputs).backward(grad)
    assert layer.weight.grad is None and inputs.grad is not None and layer.bias.grad is not None


@pytest.mark.parametrize('training', [True, False])
def test_a_weight_that_changed_without_a_trace_is_mapped_anew(training, monkeypatch):
    """Between iterations nobody announced, or in evaluation, as mmengine's EMA hook does it."""
    monkeypatch.setattr(current_run, 'has_iterations', False)
    layer, _, x, _ = build('linear')
    layer.train(training)
    with torch.no_grad():
        layer(x)
        layer.weight.data.zero_()
        layer.bias.data.zero_()
        assert not layer(x).any()


@pytest.mark.parametrize('case', ['conv-3x3', 'conv3d', 'transposed-stride', 'linear'])
def test_copies_and_files_keep_a_layer(case):
    layer, _, x, grad = build(case, bits=6)
    run(layer, x, grad)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for same in (torch.load(file, weights_only=False), copy.deepcopy(layer)):
        assert type(same) is type(layer) and same.bits == 6
        assert same.weight is not layer.weight
        with torch.no_grad():
            assert torch.equal(same.eval()(x), layer.eval()(x))
            same.weight.zero_()
            assert not torch.equal(same(x), layer(x))
    assert list(layer.state_dict()) == ['weight', 'bias'] and 'bits=6' in repr(layer)
