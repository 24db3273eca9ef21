"""Additions, products, attention and pooling of stock code, in integers."""

import copy
import gc
import io
import math
import threading
import weakref
from collections import Counter
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from comparison import BITS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmint import backends
from mmint.backends import NonFiniteError
from mmint.conversion import FLOAT_FORWARD, convert
from mmint.numerics import Role, Site, current_run
from mmint.ops import Mapper
from mmint.ops.addition import add
from mmint.ops.checkpoint import make_checkpoint_replay
from mmint.ops.fork import use
from mmint.ops.function import SUM_BITS
from mmint.ops.matmul import attention, matmul
from mmint.ops.scope import current_scope

pytestmark = pytest.mark.usefixtures('backend', 'fresh_run')

SIGMAS = 5  # of a mean's distance from the expectation: one in 1.7 million by chance


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def calls(backend):
    """How often these operations of the backend were called."""
    count = Counter()

    def counted(name, operation, args, kwargs):
        if name in ('add', 'matmul', 'conv2d', 'avg_pool2d'):
            count[name] += 1
        return operation(*args, **kwargs)

    with backends.watched(counted):
        yield count


def pattern(x):
    return x.detach().contiguous().view(torch.int32)


def assert_same(actual, expected):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    assert torch.equal(pattern(actual), pattern(expected))


def mapper(bits=8, call=0, stochastic=True):
    return Mapper(Site('block', 5), bits, stochastic, call)


def ones_place(x, bits):
    """The value of a mantissa's last place: of the exponent that ``x`` is mapped with."""
    return 2.0 ** int(backends.reference.quantize(x, bits, None).exponent)


# ---- addition ----


def float_of(value):
    """The float32 nearest to a fraction, ties to even (a double rounds twice)."""
    if value == 0:
        return 0.0
    exponent = math.floor(math.log2(abs(value)))
    unit = Fraction(2) ** (exponent - 23)
    while abs(value) >= unit * 2**24:
        unit *= 2
    return float(round(value / unit) * unit)  # Python rounds fractions to even


def mapped(values, bits, draws):
    """Paper section 3.1 with fractions: mantissas and the exponent they share."""
    top = max(abs(Fraction(v)) for v in values)
    if not top:
        return [0] * len(values), 0
    exponent = math.floor(math.log2(top)) + 2 - bits
    if top / Fraction(2) ** exponent > 2 ** (bits - 1) - 1:
        exponent += 1
    mantissas = []
    for value, drawn in zip(values, draws, strict=True):
        fine = math.floor(abs(Fraction(value)) / Fraction(2) ** exponent * 2**16)
        mantissas.append(int(math.copysign(fine + drawn >> 16, value)))
    return mantissas, exponent


def exact_sum(x, y, bits, draws):
    """The definition: both mapped, from one draw; added, or the higher first if far apart."""
    a, low = mapped(x.tolist(), bits, draws)
    b, high = mapped(y.tolist(), bits, [65535 - r for r in draws])
    if any(a) and any(b) and abs(high - low) > 40:
        first, second = (a, b) if low > high else (b, a)
        second[:] = [0 if i else j for i, j in zip(first, second, strict=True)]
    sums = [i * Fraction(2) ** low + j * Fraction(2) ** high for i, j in zip(a, b, strict=True)]
    return torch.tensor([float_of(s) for s in sums])


@pytest.mark.parametrize('bits', [4, 8, 16])
@pytest.mark.parametrize('power', [0, -3, 9, -24, -40, -41, 60])
def test_a_sum_is_two_mappings_aligned_and_added(backend, bits, power):
    x, y = torch.randn(65), torch.randn(65) * 2.0**power
    draws = BITS.draw(65).tolist()
    assert_same(backend.add(x, y, bits, BITS), exact_sum(x, y, bits, draws))


def test_what_a_mask_of_huge_numbers_does_not_hide_stays(backend):
    scores = torch.randn(65)
    hidden = torch.arange(65) % 3 == 0
    mask = torch.zeros(65).masked_fill(hidden, -1e30)
    sums = backend.add(scores, mask, 16, BITS)
    alone = backend.dequantize(*backend.quantize(scores, 16, BITS)[:2])
    assert_same(sums[~hidden], alone[~hidden])
    assert (sums[hidden] < -9e29).all()


def test_the_errors_of_halves_cancel(backend):
    """One of the two operands is rounded up and the other down, whatever is drawn."""
    x = torch.cat([torch.tensor([64.0]), torch.arange(-40, 40) + 0.5])
    assert_same(backend.add(x, x, 8, BITS), x + x)
    assert not torch.equal(backend.dequantize(*backend.quantize(x, 8, BITS)[:2]), x)


@pytest.mark.parametrize('bits', [4, 8])
def test_a_sum_is_unbiased(backend, bits):
    x, y = torch.randn(40), torch.randn(40) * 0.3
    draws = 2500
    sums = backend.add(x.repeat(draws, 1), y.repeat(draws, 1), bits, BITS)
    error = (sums.double() - (x.double() + y.double())).mean(0).abs()
    # A rounding deviates by at most half its unit, and float32 resolves the rest.
    deviation = (ones_place(x, bits) + ones_place(y, bits)) / 2
    assert (error < SIGMAS * deviation / math.sqrt(draws) + 2**-15 * deviation).all()


def test_a_sum_in_place_replaces_its_first_operand(backend):
    x, y = torch.randn(3, 5, 7).transpose(0, 2), torch.randn(7, 5, 3)
    expected = backend.add(x, y, 8, BITS)
    assert backend.add(x, y, 8, BITS, inplace=True) is x
    assert_same(x, expected)


def test_sums_of_nothing_and_of_zeros(backend):
    assert backend.add(torch.empty(0, 4), torch.empty(0, 4), 8, BITS).shape == (0, 4)
    y = torch.tensor([1.0, -0.5])
    assert_same(backend.add(torch.zeros(2), y, 8, BITS), y)


@pytest.mark.parametrize('value', [float('inf'), float('nan')])
def test_an_infinite_operand_is_an_error_that_names_the_module(value):
    model = convert_(nn.Sequential(Residual()))
    x = torch.randn(1, 4, 5, 5)
    model[0].offset = torch.full_like(x, value)
    with pytest.raises(NonFiniteError, match='^0 was given an input .* iteration 0'):
        model(x)
    assert current_scope() is None


def test_the_gradient_of_a_sum_is_that_of_its_operands():
    x, y = (torch.randn(4, 6, requires_grad=True) for _ in range(2))
    grad = torch.randn(4, 6)
    add(x, y, mapper()).backward(grad)
    assert_same(x.grad, grad)
    assert_same(y.grad, grad)


# ---- gradients that meet ----


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


# ---- what a module's own code computes ----


class Residual(nn.Module):
    """A block with a constant to add, which tests replace."""

    offset = None

    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        out = self.conv(x)
        out += x
        return out if self.offset is None else out + self.offset


class Attention(nn.Module):
    """As stock code writes it, over the pixels of an image."""

    def __init__(self, channels, heads):
        super().__init__()
        self.qkv, self.heads = nn.Linear(channels, 3 * channels), heads

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        images, length, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(images, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        out = F.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).reshape(images, length, channels)


class Runs(nn.Module):
    """A module whose forward pass is a function; the parameter makes it one that learns."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, *args):
        return self.function(*args)


def convert_(*modules, **settings):
    """The modules, in sequence if there are several, converted."""
    model = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
    convert(model, **settings)
    return model


def in_scope(function, *args, **settings):
    """What ``function`` computes in the forward pass of a converted module."""
    return convert_(Runs(function), **settings)(*args)


ADDITIONS = {
    'x + y': lambda x, y: x + y,
    'x += y': lambda x, y: x.__iadd__(y),
    'x.add(y)': lambda x, y: x.add(y),
    'x.add_(other=y)': lambda x, y: x.add_(other=y),
    'torch.add(x, y)': torch.add,
    'torch.add(input=x, other=y)': lambda x, y: torch.add(input=x, other=y),
    'sum([x, y])': lambda x, y: sum([x, y]),
}


@pytest.mark.parametrize('form', ADDITIONS)
def test_every_way_to_write_an_addition(form, calls):
    x, y = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    expected = x + y
    out = in_scope(ADDITIONS[form], x.clone(), y)
    assert calls['add'] == 1 and not torch.equal(out, expected)
    unit = ones_place(x, SUM_BITS) + ones_place(y, SUM_BITS)
    assert (out - expected).abs().max() <= unit * (1 + 2**-8)


STAYS_FLOAT = {
    'broadcast': lambda x: x + x[:1],
    'scalar': lambda x: x + 1,
    'scalar tensor': lambda x: x + torch.tensor(0.3),
    'vector': lambda x: x.flatten() + x.flatten(),
    'boxes': lambda x: x.reshape(-1, 4) + x.reshape(-1, 4),
    'boxes of images': lambda x: x.reshape(2, -1, 4) + x.reshape(2, -1, 4),
    'alpha': lambda x: x.add(x, alpha=0.5),
    'out': lambda x: torch.add(x, x, out=torch.empty_like(x)),
    'float64': lambda x: x.double() + x.double(),
    'vector product': lambda x: x @ x[0, 0, 0],
    'pooling without images': lambda x: F.avg_pool2d(x[0], 2),
    'pooling by less than the window': lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    'mean of everything': lambda x: x.mean(),
    'mean of channels': lambda x: x.mean(1),
    'outer product': lambda x: torch.einsum('ij,k->ijk', x[0, 0], x[0, 0, 0]),
    'einsum of one': lambda x: torch.einsum('abcd->ab', x),
    'einsum of three': lambda x: torch.einsum('ab,bc,cd->ad', *[x[0, 0]] * 3),
    'einsum of a diagonal': lambda x: torch.einsum('aa,ab->b', x[0, 0], x[0, 0]),
    'padding by name': lambda x: F.conv2d(x, x[:1, :, :3, :3], padding='same'),
    'position embedding': lambda x: x + nn.Parameter(torch.ones(x.shape)),
    'product of no rows': lambda x: x[:, :, :0] @ x,
    'product of no columns': lambda x: x @ x[..., :0],
    'product of no terms': lambda x: x[..., :0] @ x[:, :, :0],
    'einsum of no queries': lambda x: torch.einsum('bqc,bchw->bqhw', x[:, :0, :3, 0], x),
    'attention of no queries': lambda x: F.scaled_dot_product_attention(x[:, :, :0], x, x),
    'attention of no keys': lambda x: F.scaled_dot_product_attention(x, x[:, :, :0], x[:, :, :0]),
    'mean of no pixels': lambda x: x[:, :, :0].mean((2, 3)).nan_to_num(),
    'pooling to more than int64 sums': lambda x: F.adaptive_avg_pool2d(x[..., :1, :1], 200),
}


@pytest.mark.parametrize('case', STAYS_FLOAT)
def test_what_stays_in_float(case, calls):
    x = torch.randn(2, 3, 4, 4)
    out = in_scope(STAYS_FLOAT[case], x, bits=16)
    assert torch.equal(out, STAYS_FLOAT[case](x)) and not calls


WRONG = {
    'matmul': lambda x: x @ x[..., :3, :],
    'linear': lambda x: F.linear(x, x[0, 0, :, :3]),
    'conv2d': lambda x: F.conv2d(x, x[:, :2]),
    'pooling beyond the image': lambda x: F.avg_pool2d(x, 5),
    'padding beyond half the window': lambda x: F.avg_pool2d(x, 2, padding=2),
    'two masks': lambda x: F.scaled_dot_product_attention(x, x, x, x, is_causal=True),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_pytorch_refuses_is_refused_in_its_words(case):
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(RuntimeError) as stock:
        WRONG[case](x)
    with pytest.raises(RuntimeError) as ours:
        in_scope(WRONG[case], x)
    assert str(ours.value) == str(stock.value)


class FloatSums(TorchDispatchMode):
    """Counts additions of two float32 tensors that PyTorch executes."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        adds = func._schema.name in ('aten::add', 'aten::add_')
        tensors = all(isinstance(a, Tensor) and a.numel() > 1 for a in args[:2])
        self.count += adds and tensors and out.dtype == torch.float32
        return out


def float_sums(model, *inputs):
    """Of a training step; the backward pass begins with other gradients than ones."""
    for tensor in (*inputs, *model.parameters()):
        tensor.grad = None
    with FloatSums() as counter:
        out = model(*inputs)
        outputs = list(out) if isinstance(out, (list, tuple)) else [out]
        torch.autograd.backward(outputs, [torch.randn_like(o) for o in outputs])
    return counter.count


def torchvision_bottleneck():
    from torchvision.models.resnet import Bottleneck

    return Bottleneck(16, 4), [(2, 16, 6, 6)], 1


def mmdet_bottleneck():
    from mmdet.models.backbones.resnet import Bottleneck

    return Bottleneck(16, 4), [(2, 16, 6, 6)], 1


def mmpretrain_resnet():
    from mmpretrain.models import ResNet

    model = ResNet(18, stem_channels=8, base_channels=8, norm_eval=False)
    return model, [(2, 3, 64, 64)], 8


def mmpretrain_vit_layer():
    from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer

    return TransformerEncoderLayer(16, 2, 32), [(2, 5, 16)], 2


def mmpretrain_swin_block():
    from mmpretrain.models.backbones.swin_transformer import SwinBlock

    class Block(SwinBlock):
        def forward(self, x):
            return super().forward(x, (7, 7))

    return Block(16, 2, window_size=7), [(2, 49, 16)], 2


def mmpretrain_squeeze_and_excitation():
    from mmpretrain.models.utils import SELayer

    return SELayer(16, ratio=4), [(2, 16, 6, 6)], 0


def mmcv_swish():
    from mmcv.cnn import ConvModule

    return ConvModule(8, 8, 1, act_cfg=dict(type='Swish')), [(2, 8, 6, 6)], 0


def mmdet_fpn():
    from mmdet.models import FPN

    class OneInput(FPN):
        def forward(self, *inputs):
            return super().forward(inputs)

    return OneInput([4, 6, 8], 8, 3), [(2, 4, 16, 16), (2, 6, 8, 8), (2, 8, 4, 4)], 2


STOCK = [
    torchvision_bottleneck,
    mmdet_bottleneck,
    mmpretrain_resnet,
    mmpretrain_vit_layer,
    mmpretrain_swin_block,
    mmpretrain_squeeze_and_excitation,
    mmcv_swish,
    mmdet_fpn,
]
BROADCAST_SUMS = {'mmpretrain_swin_block': 1}  # the bias of the scores, a table for each head


@pytest.mark.parametrize('build', STOCK, ids=lambda build: build.__name__)
def test_stock_blocks_add_in_integers_forward_and_backward(build, calls):
    model, sizes, additions = build()
    inputs = [torch.randn(size, requires_grad=True) for size in sizes]
    assert float_sums(model, *inputs) > 0
    convert(model)
    with torch.no_grad():
        model(*inputs)
    assert calls['add'] == additions
    calls.clear()
    assert float_sums(model, *inputs) == BROADCAST_SUMS.get(build.__name__, 0)
    assert calls['add'] > additions
    assert all(x.grad.isfinite().all() for x in inputs)


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

    monkeypatch.setattr('mmint.conversion.FLOAT_FORWARD', FLOAT_FORWARD | {Model})
    convert_(Model())(torch.randn(1, 4, 5, 5))
    assert calls['add'] == 1


def test_an_error_leaves_the_scope():
    def fails(x):
        raise KeyError

    with pytest.raises(KeyError):
        in_scope(fails, torch.randn(2, 5))
    assert current_scope() is None


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
    assert entered.wait(10) and current_scope() is None
    in_scope(lambda x: x + x, x)
    left.set()
    thread.join()
    in_scope(lambda x: x + x, x)
    assert calls['add'] == 3 and current_scope() is None


def trained(model, x):
    """Output and gradients of a training step that begins an iteration."""
    current_run.begin_iteration(3)
    x = x.clone().requires_grad_()
    model.zero_grad()
    out = model(x)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape))
    return out.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)


def assert_all_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert_same(a, b)


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


# ---- products of inputs, attention ----


def product_bound(a, b, bits):
    """How far a product of mapped operands may be off: a unit each, and float32's rounding."""
    units = ones_place(a, bits), ones_place(b, bits)
    a, b = a.double().abs(), b.double().abs()
    widened = (a + units[0]) @ (b + units[1])
    return widened - a @ b + widened * 2**-24


PRODUCTS = {
    'matrices': ((5, 7), (7, 3)),
    'batch': ((2, 5, 7), (2, 7, 3)),
    'two batch dimensions': ((2, 3, 5, 7), (2, 3, 7, 4)),
    'broadcast': ((2, 1, 5, 7), (3, 7, 4)),
    'one matrix for a batch': ((5, 7), (2, 3, 7, 4)),
    'one row': ((2, 1, 7), (2, 7, 1)),
}


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('case', PRODUCTS)
@pytest.mark.parametrize('bits', [8, 16])
def test_a_product_and_its_gradients(case, transposed, bits):
    sizes = PRODUCTS[case]
    if transposed:  # views, as of keys
        leaves = [torch.randn(*s[:-2], s[-1], s[-2], requires_grad=True) for s in sizes]
        a, b = (x.transpose(-2, -1) for x in leaves)
    else:
        leaves = a, b = [torch.randn(s, requires_grad=True) for s in sizes]
    out = matmul(a, b, mapper(bits))
    exact = a.detach().double() @ b.detach().double()
    assert out.shape == exact.shape and out.dtype == torch.float32
    assert ((out - exact).abs() <= product_bound(a.detach(), b.detach(), bits)).all()
    grad = torch.randn(out.shape)
    out.backward(grad)
    wide = [x.detach().double().requires_grad_() for x in leaves]
    views = [x.transpose(-2, -1) if transposed else x for x in wide]
    (views[0] @ views[1]).backward(grad.double())
    for leaf, expected in zip(leaves, wide, strict=True):
        unit = ones_place(grad, bits)
        other = leaves[1] if leaf is leaves[0] else leaves[0]
        terms = grad.numel() // min(grad.shape[-2:]) + max(grad.shape)
        other = other.detach()
        most = float(grad.abs().max()) + unit, float(other.abs().max()) + ones_place(other, bits)
        bound = terms * (unit * most[1] + ones_place(other, bits) * most[0])
        assert (leaf.grad - expected.grad).abs().max() <= bound


def test_a_product_and_its_gradients_are_unbiased_at_8_bits():
    a, b, grad = torch.randn(1, 5, 6), torch.randn(1, 6, 4), torch.randn(1, 5, 4)
    exact = [x.double() for x in (a @ b, grad @ b.mT, a.mT @ grad)]
    draws = []
    for call in range(600):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        out = matmul(x, y, mapper(call=call))
        out.backward(grad)
        draws.append([t.detach().double() for t in (out, x.grad, y.grad)])
    for samples, expected in zip(zip(*draws, strict=True), exact, strict=True):
        samples = torch.stack(samples)
        error = (samples.mean(0) - expected).abs()
        assert (error < SIGMAS * samples.std(0) / math.sqrt(len(samples)) + 1e-5).all()


EQUATIONS = {
    'bqc,bchw->bqhw': ((2, 3, 5), (2, 5, 4, 6)),  # mask heads
    'lbqc,bchw->lbqhw': ((3, 2, 4, 5), (2, 5, 3, 4)),
    'bhwc,hkc->bhwk': ((2, 3, 4, 5), (3, 6, 5)),  # relative positions
    'nc, mc -> nm': ((4, 5), (6, 5)),
    'bcn,bnk->bck': ((2, 3, 4), (2, 4, 5)),
    'bnhw,bchw->bnc': ((2, 3, 4, 5), (2, 6, 4, 5)),
}


@pytest.mark.parametrize('equation', EQUATIONS)
def test_einsum_of_two_operands(equation, calls):
    a, b = (torch.randn(size, requires_grad=True) for size in EQUATIONS[equation])
    out = in_scope(torch.einsum, equation, a, b, bits=16)
    assert calls['matmul'] == 1
    expected = torch.einsum(equation, a, b)
    torch.testing.assert_close(out, expected, atol=1e-2, rtol=0)
    grad = torch.randn_like(out)
    actual = torch.autograd.grad(out, (a, b), grad)
    for one, other in zip(actual, torch.autograd.grad(expected, (a, b), grad), strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=0)


def assert_close_at_16_bits(function, *inputs):
    """Output and gradients in integers of 16 bits are near float's; they are of the order of 1."""
    results = []
    for compute in (function, lambda *args: in_scope(function, *args, bits=16)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = compute(*leaves)
        grad = torch.linspace(-1, 1, out.numel()).view(out.shape)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, grad)])
    assert not torch.equal(results[0][0], results[1][0])
    for expected, actual in zip(*results, strict=True):
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() < 2e-3 * max(1, float(expected.abs().max()))


def masked(kind):
    hidden = torch.rand(2, 1, 5, 6) < 0.3
    hidden[..., 0] = False
    if kind == 'bool':
        return ~hidden
    return torch.randn(2, 1, 5, 6).masked_fill(hidden, float('-inf'))


ATTENTION = {
    'plain': dict(),
    'bool mask': dict(attn_mask='bool'),
    'float mask': dict(attn_mask='float'),
    'causal': dict(is_causal=True),
    'scale': dict(scale=0.3),
}


@pytest.mark.parametrize('case', ATTENTION)
def test_fused_attention(case, calls):
    settings = dict(ATTENTION[case])
    if 'attn_mask' in settings:
        settings['attn_mask'] = masked(settings['attn_mask'])
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 7)
    assert_close_at_16_bits(lambda *qkv: F.scaled_dot_product_attention(*qkv, **settings), q, k, v)
    assert calls['matmul'] == 6


def test_fused_attention_of_groups():
    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    assert_close_at_16_bits(
        lambda *qkv: F.scaled_dot_product_attention(*qkv, enable_gqa=True), q, k, v
    )


def test_a_query_that_sees_no_key_gets_zero_and_gives_no_gradient():
    q, k, v = (torch.randn(1, 1, 4, 8) for _ in range(3))
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1] = False
    q.requires_grad_()
    out = in_scope(lambda: F.scaled_dot_product_attention(q, k, v, mask))
    out.sum().backward()
    assert not out[0, 0, 1].any() and not q.grad[0, 0, 1].any()
    assert out[0, 0, 0].all() and q.grad.isfinite().all()


def test_dropout_of_attention_weights():
    """Each is left out or doubled: on average the output is that without dropout."""
    q, k = (torch.randn(1, 400, 4, 8).mul(0.1) for _ in range(2))
    v = torch.ones(1, 400, 4, 8)
    out, _ = attention(q, k, v, None, 0.5, None, (mapper(), mapper(call=1)))
    assert abs(float(out.mean()) - 1) < 0.1 and float(out.std()) > 0.3


def heads(**settings):
    torch.manual_seed(1)
    return nn.MultiheadAttention(8, 2, **settings)


HEADS = {
    'self': (dict(), dict(), 5),
    'cross': (dict(), dict(), 6),
    'batch first': (dict(batch_first=True), dict(), 6),
    'no bias': (dict(bias=False), dict(), 6),
    'weights of each head': (dict(), dict(average_attn_weights=False), 6),
    'no weights': (dict(), dict(need_weights=False), 6),
    'separate widths': (dict(kdim=5, vdim=7), dict(), 6),
    'padding': (dict(), dict(key_padding_mask=True), 6),
    'mask': (dict(), dict(attn_mask='bool'), 6),
    'mask of each head': (dict(), dict(attn_mask='heads'), 6),
    'both': (dict(), dict(attn_mask='bool', key_padding_mask=True), 6),
    'float mask': (dict(), dict(attn_mask='float'), 6),
}


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('case', HEADS)
def test_multi_head_attention(case, training, calls):
    settings, options, length = HEADS[case]
    options = dict(options)
    query = torch.randn(5, 2, 8)
    key, value = (torch.randn(length, 2, settings.get(n, 8)) for n in ('kdim', 'vdim'))
    if case == 'self':
        key = value = query
    if settings.get('batch_first'):
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    mask = torch.zeros(5, length, dtype=torch.bool)
    mask[1, 3:] = mask[3, :2] = True
    if options.get('key_padding_mask'):
        options['key_padding_mask'] = torch.tensor(
            [[False] * length, [False, True] * (length // 2)]
        )
    if 'attn_mask' in options:
        masks = dict(bool=mask, heads=mask.repeat(4, 1, 1), float=torch.randn(5, length))
        options['attn_mask'] = masks[options['attn_mask']]
    results = []
    for converted in (False, True):
        module = heads(**settings).train(training)
        if converted:
            convert(module, bits=16)
        inputs = [x.clone().requires_grad_(training) for x in (query, key, value)]
        with torch.set_grad_enabled(training):
            out, weights = module(*inputs, **options)
        if training:
            out.square().sum().backward()
        found = [out, *([] if weights is None else [weights])]
        found += [x.grad for x in (*inputs, *module.parameters()) if training]
        results.append([x.detach() for x in found])
    assert calls['matmul'] == (18 if training else 6)
    assert len(results[0]) == len(results[1])
    for expected, actual in zip(*results, strict=True):
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() < 2e-3 * max(1, float(expected.abs().max()))


def test_unusual_attention_stays_in_float(calls):
    x = torch.randn(5, 2, 8)
    for settings in (dict(add_bias_kv=True), dict(add_zero_attn=True)):
        convert_(heads(**settings))(x, x, x)
    convert_(heads())(x[:, 0], x[:, 0], x[:, 0])
    assert not calls


def test_query_key_and_value_of_one_tensor_may_be_written():
    def function(x):
        qkv = x.view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q = qkv[0]
        q *= 0.5
        return q @ qkv[1].transpose(-2, -1) @ qkv[2]

    x = torch.randn(2, 5, 24)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    outs = in_scope(function, leaves[0] * 1, bits=16), function(leaves[1] * 1)
    for out in outs:
        out.sum().backward()
    assert torch.allclose(*outs, rtol=1e-3, atol=1e-3)
    assert torch.allclose(*(leaf.grad for leaf in leaves), rtol=1e-3, atol=1e-3)


def test_query_key_and_value_of_one_tensor_share_a_gradient_without_sums():
    model, x = Attention(8, 2), torch.randn(2, 8, 3, 3, requires_grad=True)
    grad = torch.randn(2, 9, 8)
    model(x).backward(grad)
    expected = x.grad
    x.grad = model.qkv.weight.grad = model.qkv.bias.grad = None
    convert(model, bits=16)
    with FloatSums() as counter:
        model(x).backward(grad)
    assert counter.count == 0
    torch.testing.assert_close(x.grad, expected, atol=1e-3, rtol=0)


def test_a_linear_layer_written_as_a_function(calls):
    x, weight, bias = torch.randn(2, 5, 8), torch.randn(6, 8), torch.randn(6)
    assert_close_at_16_bits(lambda *args: F.linear(*args), x, weight, bias)
    assert_close_at_16_bits(lambda x, w: F.linear(input=x, weight=w), x, weight)
    assert calls['matmul'] == 6


def test_a_subclass_of_conv2d_convolves_in_integers(calls):
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    model, x = Doubled(4, 6, 3, 2, 1, groups=2), torch.randn(2, 4, 7, 7, requires_grad=True)
    expected = model(x)
    convert(model, bits=16)
    out = model(x)
    assert calls['conv2d'] == 1
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)
    grads = [torch.autograd.grad(o.sum(), (x, *model.parameters())) for o in (out, expected)]
    for actual, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-2, rtol=0)


# ---- average pooling ----

POOLING = {
    'windows': lambda x: F.avg_pool2d(x, 3),
    'stride': lambda x: F.avg_pool2d(x, 3, 2),
    'rectangle': lambda x: F.avg_pool2d(x, (3, 2), (2, 3), (1, 0)),
    'padding': lambda x: F.avg_pool2d(x, 3, 2, 1),
    'padding not counted': lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    'ceiling': lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    'ceiling and padding': lambda x: F.avg_pool2d(x, 3, 2, 1, True),
    'ceiling, padding not counted': lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
    'divisor': lambda x: F.avg_pool2d(x, 2, divisor_override=7),
    'by keywords': lambda x: F.avg_pool2d(input=x, kernel_size=2, stride=1),
    'module': nn.AvgPool2d(3, 1, 1),
    'global': lambda x: F.adaptive_avg_pool2d(x, 1),
    'global module': nn.AdaptiveAvgPool2d((1, 1)),
    'adaptive': lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    'adaptive in one dimension': lambda x: F.adaptive_avg_pool2d(x, (None, 2)),
    'adaptive, more than there is': lambda x: F.adaptive_avg_pool2d(x, 13),
    'mean of pixels': lambda x: x.mean((2, 3)),
    'mean of pixels, dimensions kept': lambda x: torch.mean(x, [-2, -1], keepdim=True),
}


def integers_that_map_exactly(shape):
    """Integers of 8 bits, the largest among them."""
    x = torch.randint(-127, 128, shape).float()
    x.view(-1)[0] = 127
    return x


@pytest.mark.parametrize('case', POOLING)
def test_a_mean_is_exact_to_one_place_of_float32(case, calls):
    pool = POOLING[case]
    x = integers_that_map_exactly((2, 3, 9, 10))
    results = []
    for dtype, compute in ((torch.float64, pool), (torch.float32, lambda x: in_scope(pool, x))):
        leaf = x.to(dtype).requires_grad_()
        out = compute(leaf)
        if not results:
            grad = integers_that_map_exactly(out.shape)
        results.append((out.detach(), *torch.autograd.grad(out, leaf, grad.to(dtype))))
    assert calls['avg_pool2d'] == 1
    for exact, actual in zip(*results, strict=True):
        size = exact.float().abs().clamp(min=2**-20)  # shares that cancel leave float64's error
        place = torch.nextafter(size, torch.tensor(math.inf)) - size
        assert actual.shape == exact.shape and ((actual - exact).abs() <= place).all()


def test_pooling_without_a_scope_around_it(calls):
    """As of a neck that has no parameters."""
    model = convert_(nn.Conv2d(3, 3, 1), nn.Sequential(nn.AdaptiveAvgPool2d(1)), nn.Flatten())
    model[1](torch.randn(2, 3, 4, 4))
    assert calls['avg_pool2d'] == 1
