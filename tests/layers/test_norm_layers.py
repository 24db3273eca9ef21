"""Integer norms as layers: near float64, unbiased, the same in one process or several."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
import torch.utils.checkpoint
from comparison import EPS
from torch import nn

from mmint.backends import NonFiniteError, reference
from mmint.conversion import convert
from mmint.layers import (
    IntBatchNorm,
    IntBatchNorm1d,
    IntBatchNorm2d,
    IntBatchNorm3d,
    IntGroupNorm,
    IntInstanceNorm1d,
    IntInstanceNorm2d,
    IntInstanceNorm3d,
    IntLayerNorm,
    IntLayerNorm2d,
    IntSyncBatchNorm,
)
from mmint.ops.checkpoint import make_checkpoint_replay
from mmint.ops.run import current_run

pytestmark = pytest.mark.usefixtures('fresh_run')


LAYERS = {
    'batch 2d': (IntBatchNorm2d, nn.BatchNorm2d, (6,), (4, 6, 5, 7)),
    'batch 1d': (IntBatchNorm1d, nn.BatchNorm1d, (6,), (8, 6)),
    'batch 1d long': (IntBatchNorm1d, nn.BatchNorm1d, (6,), (3, 6, 9)),
    'batch 3d': (IntBatchNorm3d, nn.BatchNorm3d, (6,), (2, 6, 3, 5, 4)),
    'sync': (IntSyncBatchNorm, nn.BatchNorm2d, (6,), (4, 6, 5, 7)),
    'group': (IntGroupNorm, nn.GroupNorm, (3, 6), (4, 6, 5, 7)),
    'group rows': (IntGroupNorm, nn.GroupNorm, (2, 6), (4, 6)),
    'instance': (IntInstanceNorm2d, nn.InstanceNorm2d, (6, EPS, 0.1, True), (4, 6, 5, 7)),
    'instance 1d': (IntInstanceNorm1d, nn.InstanceNorm1d, (6, EPS, 0.1, True), (3, 6, 9)),
    'instance 3d': (IntInstanceNorm3d, nn.InstanceNorm3d, (6, EPS, 0.1, True), (2, 6, 3, 5, 4)),
    'instance tracked': (
        IntInstanceNorm2d,
        nn.InstanceNorm2d,
        (6, EPS, 0.1, True, True),
        (4, 6, 5, 7),
    ),
    'layer': (IntLayerNorm, nn.LayerNorm, (24,), (2, 5, 24)),
    'layer several': (IntLayerNorm, nn.LayerNorm, ((5, 7),), (4, 6, 5, 7)),
}
layer_cases = pytest.mark.parametrize('case', LAYERS)


def build(case, bits=8, **kwargs):
    """An integer layer with parameters that are not 1 and 0, its float64 twin, input, gradient."""
    integer, stock, args, size = LAYERS[case]
    torch.manual_seed(0)
    layer, twin = integer(*args, bits=bits, **kwargs), stock(*args, **kwargs)
    for p in layer.parameters():
        nn.init.normal_(p)
    twin.load_state_dict(layer.state_dict())
    return layer, twin.double(), torch.randn(size), torch.randn(size) / 50


def run(layer, x, grad):
    """Output, and gradients of input, weight and bias."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out = layer(x)
    out.backward(grad)
    return [out.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


@layer_cases
@pytest.mark.parametrize('training', [True, False])
def test_layers_agree_with_float64(case, training, backend):
    """The mapping's error at 16 bits; formulas are tested above, to the last bits."""
    layer, twin, x, grad = build(case, bits=16)
    got = run(layer.train(training), x, grad)
    want = run(twin.train(training), x.double(), grad.double())
    for g, w in zip(got, want, strict=True):
        assert g.dtype == torch.float32
        assert (g.double() - w).abs().max() <= 2.0**-10 * w.abs().max()
    for g, w in zip(layer.buffers(), twin.buffers(), strict=True):
        assert (g - w).abs().max() <= 2.0**-12
    assert list(layer.state_dict()) == list(twin.state_dict())


@layer_cases
@pytest.mark.parametrize('training', [True, False])
def test_empty_batches(case, training, backend):
    layer, _, x, grad = build(case)
    out, dx, *rest = run(layer.train(training), x[:0], grad[:0])
    assert out.shape == dx.shape == x[:0].shape and all((r == 0).all() for r in rest)
    mean = getattr(layer, 'running_mean', None)
    assert mean is None or (mean == 0).all()


def test_frozen_parameters_get_no_gradients_and_input_is_not_kept(backend):
    layer, _, x, grad = build('batch 2d')
    layer.eval().requires_grad_(False)
    out = layer(x.requires_grad_())
    kept = [t for t in out.grad_fn.saved_tensors if t is not None]
    assert all(t.numel() <= 6 for t in kept)
    out.backward(grad)
    assert layer.weight.grad is None and x.grad is not None


def test_settings_of_batch_norm_mean_what_they_mean_in_pytorch(backend):
    _, _, x, grad = build('batch 2d')
    for kwargs in (dict(affine=False), dict(track_running_stats=False), dict(momentum=None)):
        layer, twin, *_ = build('batch 2d', 16, **kwargs)
        for training in (True, True, False):
            got = run(layer.train(training), x, grad)
            want = run(twin.train(training), x.double(), grad.double())
            for g, w in zip(got, want, strict=True):
                assert (g.double() - w).abs().max() <= 2.0**-10 * w.abs().max()
            x = x + 1
        for g, w in zip(layer.buffers(), twin.buffers(), strict=True):
            assert (g - w).abs().max() <= 2.0**-12 * w.abs().max()


@pytest.mark.parametrize('momentum', [0.1, 1.0, None])
def test_settings_of_instance_norm_mean_what_they_mean_in_pytorch(momentum, backend):
    _, _, x, grad = build('instance')
    for kwargs in (dict(momentum=momentum, track_running_stats=True), dict()):
        layer = IntInstanceNorm2d(6, bits=16, **kwargs)
        twin = nn.InstanceNorm2d(6, **kwargs).double()
        for training in (True, True, False):
            got = run(layer.train(training), x, grad)
            want = run(twin.train(training), x.double(), grad.double())
            for g, w in zip(got, want, strict=True):
                assert (g.double() - w).abs().max() <= 2.0**-10 * w.abs().max()
            x = x + torch.linspace(0, 2, 4).view(4, 1, 1, 1)
        for g, w in zip(layer.buffers(), twin.buffers(), strict=True):
            assert (g - w).abs().max() <= 2.0**-12 * w.abs().max()
    assert layer(x[0]).shape == x[0].shape
    assert IntInstanceNorm2d(3)(x).shape == x.shape  # without parameters, as in PyTorch


def test_evaluation_uses_running_statistics_and_rounds_to_nearest(backend):
    layer, _, x, _ = build('batch 2d')
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        out = layer.eval()(x)
    fixed = reference.quantize(x, 8, None, exponents=(1, 6, 1, 1))
    statistics = layer.running_mean, layer.running_var
    parameters = layer.weight.detach(), layer.bias.detach()
    assert torch.equal(out, reference.frozen_norm(fixed, *statistics, *parameters, EPS))
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@layer_cases
def test_a_seed_names_the_bits(case, backend):
    layer, _, x, grad = build(case)
    state = copy.deepcopy(layer.state_dict())
    results = []
    for iteration in (0, 0, 1):
        layer.load_state_dict(state)
        current_run.begin_iteration(iteration)
        results.append(run(layer, x, grad))
    first, again, other = results
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_channels_first_layer_norm(backend):
    torch.manual_seed(0)
    layer, x = IntLayerNorm2d(6, bits=16), torch.randn(2, 6, 5, 4)
    want = F.layer_norm(x.permute(0, 2, 3, 1), (6,))
    assert (layer(x) - want.permute(0, 3, 1, 2)).abs().max() < 2.0**-10
    assert (layer(x.permute(0, 2, 3, 1), 'channel_last') - want).abs().max() < 2.0**-10


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('reentrant', [True, False])
def test_checkpointing_draws_the_same_bits(training, reentrant, backend, monkeypatch):
    """In a frozen batch norm too, though a re-entrant checkpoint first runs without gradients."""
    stock = torch.utils.checkpoint.checkpoint
    stock = getattr(stock, '__wrapped__', stock)
    monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', stock)
    make_checkpoint_replay()
    layer, _, x, grad = build('batch 2d')
    body = nn.Sequential(layer, nn.ReLU(), build('group')[0])
    convert(body)
    for part in body:
        part.train(training)
    results = []
    for kept in (True, False):
        current_run.begin_iteration(0)
        leaf = x.clone().requires_grad_()
        out = (
            body(leaf)
            if kept
            else torch.utils.checkpoint.checkpoint(body, leaf, use_reentrant=reentrant)
        )
        body.zero_grad()
        out.backward(grad)
        results.append([out.detach(), leaf.grad, *(p.grad.clone() for p in body.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# Unbiased where the contract promises it: each mapping to 2**-16 of a unit.
DRAWS = 400
LOG_ODDS = 20  # a comparison fails with probability below 2 * exp(-20) = 4e-9 by bad luck


def units(x):
    """Of each channel's mantissas of 4 bits."""
    fixed = reference.quantize(x, 4, None, exponents=(1, x.shape[1], 1, 1))
    return 2.0 ** fixed.exponents().double()


def assert_unbiased(x, samples):
    """Estimates of ``x`` (DRAWS, ...) that round each element up or down to a unit.

    Bernstein's inequality, for each element and for the sum over all of them, in which a common
    bias shows: ``|mean of N - expectation| <= sqrt(2 v l / N) + l / (3 N)`` units, of variance v.
    """
    unit = units(x)
    scaled = x.double() / unit
    fraction = scaled - scaled.floor()
    variance = fraction * (1 - fraction)
    error = samples.mean(0) / unit - scaled
    for e, v, resolution in (
        (error, variance, 2.0**-15),
        (error.sum(), variance.sum(), 2.0**-15 * error.numel()),
    ):
        bound = (2 * v * LOG_ODDS / DRAWS).sqrt() + LOG_ODDS / (3 * DRAWS)
        assert (e.abs() <= bound + resolution).all()


def test_frozen_batch_norm_is_unbiased(backend):
    layer, _, x, grad = build('batch 2d', bits=4)
    layer.running_var.uniform_(0.5, 2)
    layer.running_mean.normal_()
    model = nn.Sequential(layer)
    convert(model, bits=4)
    layer.eval()
    outs, grads = [], []
    for iteration in range(DRAWS):
        current_run.begin_iteration(iteration)
        leaf = x.clone().requires_grad_()
        out = model(leaf)
        out.backward(grad)
        outs.append(out.detach())
        grads.append(leaf.grad)
    shape = (-1, *[1] * (x.dim() - 2))
    state = {k: v.view(shape) for k, v in layer.double().state_dict().items() if v.dim()}
    scale = state['weight'] / (state['running_var'] + EPS).sqrt()
    outs = (torch.stack(outs).double() - state['bias']) / scale + state['running_mean']
    assert_unbiased(x, outs)
    assert_unbiased(grad, torch.stack(grads).double() / scale)


def test_means_are_unbiased_and_variances_add_that_of_the_mapping(backend):
    """The paper's equation (5), with each element's own variance of rounding.

    Within 5 standard errors, estimated from the draws, for 6 channels: by bad luck in one of
    100,000 runs.
    """
    layer, _, x, _ = build('batch 2d', bits=4, momentum=1.0)
    means, variances = [], []
    for iteration in range(DRAWS):
        current_run.begin_iteration(iteration)
        layer(x)
        means.append(layer.running_mean.clone())
        variances.append(layer.running_var.clone())
    unit = units(x)
    fraction = x.double() / unit - (x.double() / unit).floor()
    added = (unit**2 * fraction * (1 - fraction)).mean((0, 2, 3))
    unit = unit.flatten()
    assert (added > 0).all() and (added <= unit**2 / 4).all()
    var, mean = torch.var_mean(x.double(), (0, 2, 3))
    for samples, want in ((means, mean), (variances, var + added)):
        samples = torch.stack(samples).double()
        error = samples.std(0) / math.sqrt(DRAWS)
        assert ((samples.mean(0) - want).abs() <= 5 * error + 2.0**-14 * unit).all()


def joint_batch():
    """Values on the grid of the joint batch, so that no mapping depends on random bits.

    The second process's are small: alone it would choose another exponent.
    """
    generator = torch.Generator().manual_seed(0)
    parts = []
    for top, images in ((127, 3), (9, 2)):
        x = torch.randint(-top, top + 1, (images, 6, 4, 5), generator=generator).float()
        x[0, 0, 0, 0] = top
        parts.append(x / 32)
    return parts, [p.flip(3) / 64 for p in parts]


def sync_process(rank, path, out):
    """One of two processes that share a batch."""
    dist.init_process_group('gloo', init_method=f'file://{path}', rank=rank, world_size=2)
    current_run.rank = rank
    (x, grad) = (parts[rank] for parts in joint_batch())
    layer = build('sync')[0]
    torch.save((run(layer, x, grad), layer.state_dict()), f'{out}{rank}')
    with pytest.raises(NonFiniteError, match='gradient'):
        run(layer, x, grad * (math.nan if rank else 1))
    dist.destroy_process_group()


def test_two_processes_equal_one_on_the_joint_batch_to_the_bit(tmp_path):
    mp.spawn(sync_process, (tmp_path / 'rendezvous', tmp_path / 'out'), nprocs=2)
    parts = [torch.load(tmp_path / f'out{rank}') for rank in range(2)]
    layer = build('sync')[0]
    want = run(layer, *(torch.cat(p) for p in joint_batch()))
    got = [torch.cat(pair) for pair in zip(parts[0][0][:2], parts[1][0][:2], strict=True)]
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    for _, state in parts:
        assert all(torch.equal(v, state[k]) for k, v in layer.state_dict().items())
    # Parameters' gradients are each process's own, as in PyTorch: averaged with all others later.
    for i in (2, 3):
        total = parts[0][0][i].double() + parts[1][0][i].double()
        assert ((total - want[i]).abs() <= 2.0**-22 * parts[0][0][i].abs().max()).all()


def test_one_value_a_channel_is_refused_in_training(backend):
    layer = IntBatchNorm2d(3)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        layer(torch.randn(1, 3, 1, 1))
    assert layer.eval()(torch.randn(1, 3, 1, 1)).isfinite().all()


@pytest.mark.parametrize(
    'layer, size',
    [
        (IntBatchNorm2d(3), (2, 3, 4)),
        (IntBatchNorm2d(3), (2, 4, 4, 3)),
        (IntBatchNorm1d(3), (2, 3, 4, 4)),
        (IntBatchNorm3d(3), (2, 3, 4, 4)),
        (IntBatchNorm(3), (3,)),
        (IntInstanceNorm2d(3), (4, 4)),
        (IntInstanceNorm3d(3), (2, 3, 4)),
        (IntSyncBatchNorm(3), (2, 4, 4, 4)),
        (IntGroupNorm(1, 3), (2, 4)),
        (IntLayerNorm(3), (2, 4)),
        (IntLayerNorm((3, 4)), (2, 4, 4)),
    ],
)
def test_shapes_are_checked(layer, size):
    with pytest.raises(ValueError, match=rf'{type(layer).__name__} was given an input of shape'):
        layer(torch.randn(size))


def test_eps_must_be_positive():
    with pytest.raises(ValueError, match=r'eps=0.0 was given to a IntLayerNorm'):
        IntLayerNorm(3, eps=0.0)


@layer_cases
@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_errors_name_layer_tensor_and_iteration(case, bad, backend):
    layer, _, x, grad = build(case)
    layer.site.name = 'backbone.norm'
    current_run.begin_iteration(3)

    def refuses(tensor, x, grad):
        with pytest.raises(NonFiniteError, match=rf'backbone.norm .*{tensor}.* iteration 3'):
            run(layer, x, grad)

    spoilt = torch.zeros(x.shape)
    spoilt.view(-1)[7] = bad
    refuses('input', x + spoilt, grad)
    refuses('gradient', x, grad + spoilt)
    for name in ('bias', 'weight'):
        parameter = getattr(layer, name)
        layer.load_state_dict({**layer.state_dict(), name: torch.full_like(parameter, bad)})
        refuses(name, x, grad)


def test_spoilt_running_statistics_are_named(backend):
    for training in (True, False):
        layer = IntBatchNorm2d(3).train(training)
        layer.running_var[1] = math.nan
        with pytest.raises(NonFiniteError, match='running_mean and running_var'):
            layer(torch.randn(2, 3, 4, 4))
    layer.running_var[1] = -1
    with pytest.raises(NonFiniteError, match='negative'):
        layer(torch.randn(2, 3, 4, 4))


def test_other_dtypes_are_refused(backend):
    with pytest.raises(TypeError, match=r'input of torch.float64'):
        IntBatchNorm2d(3)(torch.randn(2, 3, 4, 4).double())
    with pytest.raises(TypeError, match=r'weight of torch.float64'):
        IntGroupNorm(1, 3).double()(torch.randn(2, 3, 4, 4))
