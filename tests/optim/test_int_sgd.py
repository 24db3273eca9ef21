"""IntSGD: torch.optim.SGD in integers, unbiased, on the 16-bit grid, resumable."""

import copy
import math

import pytest
import torch

from mmint.backends import NonFiniteError, Update, cpu, reference
from mmint.numerics import RandomBits, Role
from mmint.ops.run import begin_iteration, current_run
from mmint.optim import IntSGD

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')

SETTINGS = {
    'plain': dict(lr=0.05),
    'weight-decay': dict(lr=0.05, weight_decay=0.01),
    'momentum': dict(lr=0.02, momentum=0.9),
    'momentum-weight-decay': dict(lr=0.02, momentum=0.9, weight_decay=1e-4),
    'nesterov': dict(lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True),
}
settings = pytest.mark.parametrize('setting', SETTINGS)
SCALAR_ERROR = 2.0**-15  # of a scalar of 16 bits, relative


def unit(largest, bits=16):
    """No grid whose largest value is ``largest`` has a coarser unit than this."""
    return largest * 2.0 ** (2 - bits)


def parameters(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def gradients(params, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(p.shape, generator=generator) for p in params] for _ in range(steps)]


def train(optimizer, params, grads):
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = None if grad is None else grad.to(param.dtype).clone()
        optimizer.step()


def error_bound(w, v, g, setting, state, bits=16):
    """One step of the worst case: every rounding a whole unit, every scalar off by 2**-15.

    ``state`` holds the errors of weight and momentum so far; the largest magnitudes are given.
    """
    lr, m, wd = (setting.get(k, 0.0) for k in ('lr', 'momentum', 'weight_decay'))
    weight_error, momentum_error = state
    w, v = w + weight_error, v + momentum_error
    direct = unit(g, bits) + wd * (weight_error + SCALAR_ERROR * w)
    summed = g + wd * w + m * v
    momentum_error = m * (momentum_error + SCALAR_ERROR * v) + direct + 1.01 * unit(summed, bits)
    step, step_error = summed, momentum_error
    if setting.get('nesterov'):
        step = g + wd * w + m * (summed + momentum_error)
        step_error = m * (momentum_error + SCALAR_ERROR * summed) + direct + unit(step, bits)
    weight_error += lr * (step_error + SCALAR_ERROR * step)
    weight_error += 1.01 * unit(w + lr * step + weight_error, bits)
    return weight_error, momentum_error


@settings
def test_fifty_steps_stay_within_the_bound_of_their_roundings(setting):
    """Worst case over all elements; and, as roundings are independent, a fifth of it in rms."""
    setting = SETTINGS[setting]
    ours = parameters((8, 5, 3, 3), (8,))
    exact = [torch.nn.Parameter(p.detach().double()) for p in ours]
    start = copy.deepcopy(exact)
    optimizer, twin = IntSGD(ours, **setting), torch.optim.SGD(exact, **setting)
    states = [(unit(float(p.detach().abs().max())), 0.0) for p in ours]
    for grads in gradients(ours, 50):
        for i, param in enumerate(exact):
            buffer = twin.state[param].get('momentum_buffer', torch.zeros(1))
            largest = [float(t.detach().abs().max()) for t in (param, buffer, grads[i])]
            states[i] = error_bound(*largest, setting, states[i])
        train(optimizer, ours, [grads])
        train(twin, exact, [grads])
    for param, other, before, (bound, _) in zip(ours, exact, start, states, strict=True):
        error = (param.double() - other).detach()
        assert error.abs().max() <= bound
        assert error.square().mean().sqrt() <= bound / 5
        assert bound < 0.1 * (other - before).abs().max()  # so that the bound says something


@settings
@pytest.mark.parametrize('bits', [8, 16])
def test_parameters_stay_on_the_grid(backend, setting, bits):
    params = parameters((30, 7), (1,), ())
    optimizer = IntSGD(params, bits=bits, **SETTINGS[setting])
    for grads in gradients(params, 10):
        train(optimizer, params, [grads])
        for param in params:
            value = param.detach()
            fixed = backend.quantize(value, bits, None)
            assert torch.equal(backend.dequantize(fixed.mantissa, fixed.exponent), value)
            assert fixed.mantissa.abs().max() <= 2 ** (bits - 1) - 1


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('steps_below_a_unit', [1, 2**4, 2**10])
@pytest.mark.parametrize('setting', ['plain', 'momentum-weight-decay', 'nesterov'])
def test_one_update_is_unbiased(setting, steps_below_a_unit, bits):
    """Over 32,000 draws (20 seeds, 1,600 copies) within 5 standard errors of the float step.

    So too where lr * gradient is far below a unit of the grid.
    """
    setting = dict(SETTINGS[setting], lr=2.0**-bits / steps_below_a_unit)
    generator = torch.Generator().manual_seed(0)
    weight, grad = (torch.randn(16, generator=generator) for _ in range(2))
    exact = torch.nn.Parameter(weight.double())
    train(torch.optim.SGD([exact], **setting), [exact], [[grad]])
    copies, seeds = 1600, 20
    total, squares = torch.zeros(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    for seed in range(seeds):
        current_run.seed = seed
        param = torch.nn.Parameter(weight.repeat(copies, 1))
        train(IntSGD([param], bits=bits, **setting), [param], [[grad.repeat(copies, 1)]])
        moved = param.detach().double() - exact.detach()
        total += moved.sum(0)
        squares += moved.square().sum(0)
    draws = copies * seeds
    mean = total / draws
    standard_error = ((squares / draws - mean**2).clamp(min=0) / draws).sqrt()
    # Each rounding has 16 random bits; scalars are off by 2**-15.
    step = (exact.detach() - weight.double()).abs()
    slack = 4 * unit(float(weight.abs().max()), bits) * 2.0**-16 + 2 * SCALAR_ERROR * step
    assert (mean.abs() <= 5 * standard_error + slack).all()


def test_updates_far_below_a_unit_add_up():
    """100 steps of a 25th of a unit are 4 units; rounding to nearest would not move at all."""
    param = torch.nn.Parameter(torch.ones(1024))
    size = 2.0**-14
    train(IntSGD([param], lr=size / 25), [param], [[torch.ones(1024)]] * 100)
    moved = (1 - param.detach().double()) / size
    # A binomial's standard deviation is below 2 for each of 1,024 elements.
    assert abs(moved.mean() - 4) < 5 * 2 / math.sqrt(1024) + 4 * SCALAR_ERROR
    assert moved.std() > 1


@settings
def test_a_learning_rate_of_zero_leaves_weights_on_the_grid_as_they_are(setting):
    setting = SETTINGS[setting]
    params = parameters((30, 7), (5,))
    train(IntSGD(params, **setting), params, gradients(params, 1))
    before = copy.deepcopy(params)
    train(IntSGD(params, **{**setting, 'lr': 0.0}), params, gradients(params, 5))
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))


@settings
def test_a_zero_gradient_and_zero_weights(setting):
    params = [torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(0, 3))]
    optimizer = IntSGD(params, **SETTINGS[setting])
    train(optimizer, params, [[torch.zeros(4), torch.zeros(0, 3)]] * 2)
    assert torch.equal(params[0], torch.zeros(4))
    train(optimizer, params, [[torch.ones(4), torch.zeros(0, 3)]])
    assert (params[0] < 0).all()


def test_every_group_has_its_own_numbers():
    """The same as one optimizer for each, in the bound of their roundings, frozen ones frozen."""
    ours = parameters((9, 4), (6,), (5,))
    exact = [torch.nn.Parameter(p.detach().double()) for p in ours]
    numbers = [
        dict(lr=0.1),
        dict(momentum=0.5, weight_decay=0.1),
        dict(lr=0.0),
    ]
    base = dict(lr=0.01, momentum=0.9, weight_decay=1e-3)

    def groups(params):
        return [dict(params=[p], **n) for p, n in zip(params, numbers, strict=True)]

    optimizer, twin = IntSGD(groups(ours), **base), torch.optim.SGD(groups(exact), **base)
    for grads in gradients(ours, 5):
        train(optimizer, ours, [grads])
        train(twin, exact, [grads])
    for param, other in zip(ours, exact, strict=True):
        largest = float(other.detach().abs().max())
        assert (param.double() - other).abs().max() <= 5 * 3 * unit(largest)
    assert (ours[2] - parameters((9, 4), (6,), (5,))[2]).abs().max() <= unit(3.0)


def test_a_group_may_change_its_bits():
    """Its momentum goes on at the new width, with errors within those of the coarser grid."""
    results = []
    for first, second in ((16, 8), (8, 16), (16, 16)):
        params = parameters((9, 4))
        optimizer = IntSGD(params, lr=0.1, momentum=0.9, bits=first)
        grads = gradients(params, 4)
        train(optimizer, params, grads[:2])
        optimizer.param_groups[0]['bits'] = second
        train(optimizer, params, grads[2:])
        assert optimizer.state[params[0]]['momentum_buffer'].bits == second
        results.append(params[0].detach())
    for result in results[:2]:
        assert (result - results[2]).abs().max() <= 4 * 3 * unit(float(result.abs().max()), 8)


def test_a_parameter_without_a_gradient_is_left_alone():
    params = parameters((9, 4), (6,))
    before = params[1].detach().clone()
    train(IntSGD(params, lr=0.1, momentum=0.9), params, [[torch.ones(9, 4), None]])
    assert torch.equal(params[1], before)


def test_closure_is_called_once_and_its_loss_returned():
    (param,) = parameters((4,))
    optimizer = IntSGD([param], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    before = float(param.detach().square().sum())
    assert optimizer.step(closure).item() == before
    assert float(param.detach().square().sum()) < before


def test_the_bits_depend_on_seed_and_step():
    def step(seed, steps):
        (param,) = parameters((1000,))
        begin_iteration(0, seed)
        optimizer = IntSGD([param], lr=0.1)
        optimizer.steps = steps
        train(optimizer, [param], gradients([param], 1))
        return param.detach()

    assert torch.equal(step(0, 0), step(0, 0))
    assert not torch.equal(step(0, 0), step(1, 0))
    assert not torch.equal(step(0, 0), step(0, 1))


# state_dict


@settings
def test_resuming_continues_bit_for_bit(setting):
    def fresh():
        params = parameters((30, 7), (5,))
        return params, IntSGD(params, **SETTINGS[setting])

    params, optimizer = fresh()
    grads = gradients(params, 10)
    train(optimizer, params, grads[:5])
    saved = copy.deepcopy(optimizer.state_dict())
    values = [p.detach().clone() for p in params]
    train(optimizer, params, grads[5:])
    resumed_params, resumed = fresh()
    for param, value in zip(resumed_params, values, strict=True):
        param.data.copy_(value)
    resumed.load_state_dict(saved)
    train(resumed, resumed_params, grads[5:])
    assert all(torch.equal(a, b) for a, b in zip(params, resumed_params, strict=True))


@settings
def test_state_is_interchangeable_with_float_sgd(setting):
    """Either resumes from the other, and goes on as if it had always been there."""
    setting = SETTINGS[setting]
    steps = gradients(parameters((30, 7), (5,)), 8)

    def run(first, second):
        params = parameters((30, 7), (5,))
        optimizer = first(params, **setting)
        train(optimizer, params, steps[:4])
        other = second(params, **setting)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(other, params, steps[4:])
        return params

    want = run(torch.optim.SGD, torch.optim.SGD)
    for first, second in (
        (IntSGD, torch.optim.SGD),
        (torch.optim.SGD, IntSGD),
        (IntSGD, IntSGD),
    ):
        for param, other in zip(run(first, second), want, strict=True):
            assert (param - other).abs().max() <= 8 * 4 * unit(float(other.detach().abs().max()))


def test_momentum_is_saved_as_float_sgd_saves_it():
    params = parameters((30, 7))
    optimizer = IntSGD(params, lr=0.1, momentum=0.9)
    train(optimizer, params, gradients(params, 3))
    buffer = optimizer.state_dict()['state'][0]['momentum_buffer']
    assert buffer.dtype == torch.float32 and buffer.shape == params[0].shape


# Bad input


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_a_non_finite_gradient_is_reported_with_its_parameter_and_iteration(value):
    layer = torch.nn.Linear(3, 2)
    optimizer = IntSGD(layer.parameters(), lr=0.1)
    optimizer.name_parameters(layer.named_parameters(prefix='head.fc'))
    current_run.begin_iteration(23)
    before = copy.deepcopy(layer.state_dict())
    layer.bias.grad = torch.tensor([0.0, value])
    with pytest.raises(NonFiniteError, match='^head.fc.bias or its gradient .* iteration 23'):
        optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_a_parameter_that_is_not_float32_is_refused(dtype):
    param = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    param.grad = torch.ones(3, dtype=dtype)
    with pytest.raises(TypeError, match=f'^parameter 0 is of {dtype}, torch.float32 is accepted'):
        IntSGD([param], lr=0.1).step()


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(lr=-1.0), 'lr=-1.0 was given, values from 0 on'),
        (dict(momentum=-0.5), 'momentum=-0.5 was given, values from 0 on'),
        (dict(weight_decay=-0.5), 'weight_decay=-0.5 was given, values from 0 on'),
        (dict(nesterov=True), 'nesterov=True was given without a momentum'),
        (dict(bits=3), 'bits=3 was given, integers from 4 to 16'),
        (dict(bits=17), 'bits=17 was given, integers from 4 to 16'),
    ],
)
def test_arguments_out_of_range_are_refused(bad, message):
    with pytest.raises(ValueError, match=f'^{message}'):
        IntSGD(parameters((3,)), **bad)


@pytest.mark.parametrize('bad', [dict(lr=-1.0), dict(bits=3)])
def test_arguments_out_of_range_are_refused_in_a_group_too(bad):
    with pytest.raises(ValueError):
        IntSGD([dict(params=parameters((3,)), **bad)])


def test_subnormal_gradients_that_round_to_zero_leave_the_same_bits_on_both_backends():
    random = RandomBits(0, 0, 0, 0, Role.SGD_PARAMETER)
    for iteration in range(40):
        results = []
        for backend in (reference, cpu):
            param = torch.tensor([3.0, -5.0, 7.0]) * 2.0**-110
            grad = torch.full((3,), 2.0**-149)
            settings = (16, 0.1, 0.9, 2.0**-60, False, random._replace(iteration=iteration))
            (buffer,) = backend.sgd_step([Update(param, grad, None, *settings)])
            results.append((param, buffer.mantissa, buffer.exponent))
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)
