"""Deferred tensors: the bits of written ones, whoever reads them, and however."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
import torchvision
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

import mmint
from mmint.backends import watched
from mmint.layers import IntBatchNorm2d
from mmint.ops import deferred
from mmint.ops.deferred import Deferred

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')


class Between(nn.Module):
    """A module of the user's own, between a norm and what reads it."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def block(function, bits=8, exponents='free', training=True, inplace=False):
    """Convolution, batch norm, the user's own code, ReLU, and a depthwise convolution behind."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        Between(function),
        nn.ReLU(inplace),
        nn.Conv2d(8, 6, 1),
        nn.BatchNorm2d(6),
        nn.ReLU6(),
        nn.Conv2d(6, 6, 3, groups=6),
    )
    mmint.convert(model, bits=bits, exponents=exponents)
    return model.train(training)


class Residual(nn.Module):
    """Two norms that are added, in place or not, and a group norm that reads the sum."""

    def __init__(self, inplace):
        super().__init__()
        self.inplace = inplace
        self.conv, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.relu, self.last = nn.ReLU(inplace), nn.GroupNorm(2, 8)
        self.end = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        out, other = self.first(self.conv(x)), self.second(self.down(x))
        if self.inplace:
            out += other
        else:
            out = out + other
        return self.end(self.last(self.relu(out))).mean((2, 3))


def step(model, monkeypatch, wish):
    """Result, gradients and statistics of one step, and the backend's calls."""
    monkeypatch.setattr(deferred, 'wish', wish)
    model, calls = copy.deepcopy(model), []
    model.zero_grad()
    mmint.begin_iteration(0)
    x = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def observer(name, operation, args, kwargs):
        calls.append(name)
        return operation(*args, **kwargs)

    with watched(observer):
        out = model(x)
        out.square().sum().backward()
    assert type(out) is Tensor and type(x.grad) is Tensor
    grads = [p.grad for p in model.parameters()]
    assert all(type(g) is Tensor for g in grads)
    return [out.detach(), x.grad, *grads, *model.buffers()], calls


def assert_alike(model, monkeypatch):
    """Asserts that a step has the same bits with and without deferral; returns its calls."""
    (expected, written), (actual, calls) = (step(model, monkeypatch, wish) for wish in '01')
    assert 'batch_norm' in written or 'frozen_norm' in written
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)
    return calls


@pytest.mark.parametrize('inplace', [True, False])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('bits, exponents', [(8, 'free'), (8, 'tensor'), (4, 'free'), (12, 'free')])
def test_a_step_has_the_same_bits_and_writes_no_norm(
    bits, exponents, training, inplace, monkeypatch
):
    seen = []
    model = block(lambda x: seen.append(type(x)) or x, bits, exponents, training, inplace)
    calls = assert_alike(model, monkeypatch)
    assert seen == [Tensor, Deferred]
    assert not {'batch_norm', 'frozen_norm', 'relu', 'elements'} & set(calls)
    assert not {'batch_norm_grad', 'frozen_norm_grad', 'relu_grad'} & set(calls)


@pytest.mark.parametrize('inplace', [True, False])
def test_additions_read_what_nobody_has_written(inplace, monkeypatch):
    model = Residual(inplace)
    mmint.convert(model)
    calls = assert_alike(model, monkeypatch)
    assert 'group_norm_source' in calls and not {'batch_norm', 'elements'} & set(calls)


class Normed(nn.Module):
    """A convolution whose result is used by a norm and by something else, in that order or not."""

    def __init__(self, other, first):
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.norm, self.other, self.first = nn.BatchNorm2d(8), other, first

    def forward(self, x):
        x = self.conv(x)
        if self.first:
            other = self.other(x)
            return self.end(self.norm(x) + other)
        return self.end(self.norm(x) + self.other(x))


@pytest.mark.parametrize('first', [True, False])
@pytest.mark.parametrize(
    'other',
    [nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.GroupNorm(4, 8), nn.Identity(), nn.Sigmoid()],
)
def test_a_gradient_that_waits_meets_others(other, first, monkeypatch):
    model = Normed(other, first)
    mmint.convert(model)
    calls = assert_alike(model, monkeypatch)
    assert 'batch_norm_grad_source' in calls


@pytest.mark.parametrize('kind', [BasicBlock, Bottleneck])
def test_gradients_wait_through_residual_blocks(kind, monkeypatch):
    """Masks are applied by the norm behind them, and by the sum with the gradient that meets."""
    width = 8
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        kind(width, width // kind.expansion),
        kind(width, width // kind.expansion),
        nn.Conv2d(width, 4, 1),
    )
    mmint.convert(model)
    calls = assert_alike(model, monkeypatch)
    assert not {'batch_norm_grad', 'relu_grad', 'elements'} & set(calls)
    assert calls.count('add') == 4  # two residual additions, two meetings of gradients


class Pyramid(nn.Module):
    """A backbone whose first level goes on to the second, and out of it, to a neck."""

    def __init__(self):
        super().__init__()
        self.backbone, self.neck = Levels(), nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)])
        mmint.convert(self.backbone)
        mmint.convert(self.neck)

    def forward(self, x):
        levels = self.backbone(x)
        assert all(type(level) is Tensor for level in levels)
        return sum(lateral(level) for lateral, level in zip(self.neck, levels, strict=True))


class Levels(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (
            nn.Sequential(nn.Conv2d(c, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
            for c in (3, 8)
        )

    def forward(self, x):
        first = self.first(x)
        return first, self.second(first)


def test_uses_inside_and_outside_of_a_module_meet_in_integers(monkeypatch):
    calls = assert_alike(Pyramid(), monkeypatch)
    assert calls.count('add') == 1


def test_gradients_that_leave_are_written(monkeypatch):
    """Of the input of a model that begins with a norm, and of what a hook sees."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    mmint.convert(model)
    calls = assert_alike(model, monkeypatch)
    assert calls.count('batch_norm_grad') == calls.count('batch_norm_grad_source') == 1
    seen = []
    model[1].register_forward_hook(lambda m, args, out: out.register_hook(seen.append) and None)
    step(model, monkeypatch, '1')
    assert type(seen[0]) is Deferred and torch.equal(seen[0] + 0, seen[0].materialise())


def changed_by_a_slice(x):
    x[0].mul_(2)
    x[:, 1] = 0.5
    return x


def added_in_place(x):
    x += 1
    return x.mul_(0.5)


def changed_by_numpy(x):
    x.detach().numpy()[:] += 1
    return x


def saved_and_loaded(x):
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return x + torch.load(file, weights_only=True).detach()


def with_gradient_hooks(x):
    x.retain_grad()
    x.register_hook(lambda grad: grad * 2)
    return x


class Doubled(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 2 + x


def pooled_by_an_extension(x):
    boxes = torch.tensor([[0.0, 0, 0, 8, 8], [1, 0, 0, 8, 8]])
    return torchvision.ops.roi_align(x, boxes, (9, 11))


def printed(x):
    assert 'grad_fn' in repr(x) and '...' in str(x.detach().expand(99, 99, *x.shape)[:, :, 0])
    return x


def listed(x):
    assert x.tolist() == x.detach().numpy().tolist()
    return x


def pickled(x):
    return x + pickle.loads(pickle.dumps(x)).detach() + copy.deepcopy(x.detach())


def checkpointed(x, **how):
    return torch.utils.checkpoint.checkpoint(lambda y: F.relu(y) * 2, x, **how)


def at_an_address(x):
    assert x.data_ptr() == x.detach().data_ptr() != 0
    assert x.untyped_storage().nbytes() == 4 * x.numel()
    return x


@pytest.mark.parametrize(
    'foreign',
    [
        changed_by_a_slice, added_in_place, changed_by_numpy, saved_and_loaded, with_gradient_hooks,
        Doubled.apply, pooled_by_an_extension, printed, listed, pickled, at_an_address,
        F.relu, F.relu6, torch.relu, torch.relu_, torch.sigmoid,
        lambda x: x.relu_(), lambda x: x + x, lambda x: x + x.data,
        lambda x: x.permute(0, 1, 3, 2).contiguous().mT, lambda x: x.view(2, 8, 33, 3)[None][0],
        lambda x: torch.cat([x[:, 4:], x[:, :4]], 1), lambda x: F.max_pool2d(x, 3, 1),
        lambda x: x.contiguous(memory_format=torch.channels_last), lambda x: x.clone(),
        lambda x: checkpointed(x, use_reentrant=True),
        lambda x: checkpointed(x, use_reentrant=False),
        lambda x: checkpoint(F.relu, x, use_reentrant=False),  # which mmint does not see
        lambda x: x.masked_fill(x > 1, 0), lambda x: torch.where(x.isfinite(), x, 0),
    ],
)  # fmt: skip
def test_foreign_code_finds_an_ordinary_tensor(foreign, monkeypatch):
    assert_alike(block(foreign), monkeypatch)


def test_forward_hooks_see_a_tensor_and_may_change_it(monkeypatch):
    model = block(nn.Identity())
    model[1].register_forward_hook(lambda module, args, out: out * 2)
    model[3].register_forward_hook(lambda module, args, out: out.add_(1))
    assert_alike(model, monkeypatch)


def test_backward_hooks_of_modules_see_the_same_gradients(monkeypatch):
    model = block(nn.Identity())
    grads = []
    for module in model:
        module.register_full_backward_hook(lambda m, inputs, outputs: grads.append(outputs[0]))
    assert_alike(model, monkeypatch)
    written, deferred = grads[: len(model)], grads[len(model) :]
    for a, b in zip(written, deferred, strict=True):
        assert torch.equal(a, b)


def deferred_result(**settings):
    """What the norm of a block hands on, taken out of it."""
    kept = []
    model = block(lambda x: kept.append(x) or x, inplace=True, **settings)
    model(torch.randn(2, 3, 9, 11))
    return kept[0]


def test_a_reference_that_somebody_kept_stays_what_it_was():
    """The ReLU in place, which waits, is seen by it as it would be in memory."""
    x = deferred_result()
    assert isinstance(x, Deferred) and x.source is not None
    assert (x >= 0).all() and x.source is None


def test_it_is_written_once():
    x, calls = deferred_result(), []
    with watched(lambda name, operation, args, kwargs: calls.append(name) or operation(*args)):
        assert torch.equal(x + 1, x + 1)
    assert calls == ['elements']


def test_cplusplus_that_asks_for_the_address_is_told_that_there_is_none():
    x = deferred_result()
    with pytest.raises(RuntimeError, match='data pointer'):
        Tensor.data_ptr(x)


def test_copies_of_a_history_are_refused_as_ever():
    x = deferred_result()
    with pytest.raises(RuntimeError, match='deepcopy'):
        copy.deepcopy(x)
    with pytest.raises(RuntimeError, match='requires grad'):
        x.numpy()
    with torch.no_grad():
        x = deferred_result(training=False)
    assert isinstance(x, Deferred) and type(copy.deepcopy(x)) is Tensor
    assert torch.equal(torch.from_numpy(x.numpy()), x)


def test_results_leave_the_outermost_module_as_plain_tensors():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.norm(x)
            return {'several': [y, (self.norm(y), 1)]}

    model = Outer()
    mmint.convert(model)
    first, (second, _) = model(torch.randn(2, 3, 5, 5))['several']
    assert type(first) is type(second) is Tensor
    assert first.requires_grad and first.grad_fn is not None
    first.add_(1).sum().backward()


def test_modules_that_stay_in_float_are_given_plain_tensors(monkeypatch):
    class Floating(nn.Module):
        def forward(self, x):
            assert type(x) is Tensor
            return x.sin()

    model = nn.Sequential(nn.BatchNorm2d(3), Floating(), nn.BatchNorm2d(3))
    mmint.convert(model, exclude=['1'])
    assert_alike(model, monkeypatch)


def test_a_layer_by_itself_defers_nothing():
    assert type(IntBatchNorm2d(3)(torch.randn(2, 3, 5, 5))) is Tensor


def test_inference_mode_defers_too():
    model = block(nn.Identity(), training=False)
    x = torch.randn(2, 3, 9, 11)
    with torch.no_grad():
        expected = model(x)
    with torch.inference_mode():
        assert torch.equal(model(x), expected)
