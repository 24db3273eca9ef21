"""How many kernels a training step launches on a GPU, of ours and of PyTorch's, layer by layer.

Each costs the host some microseconds, whatever its size. A row says what one more layer adds to a
step; who changes it knows why.
"""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mmint
from mmint import backends
from mmint.backends.cuda import finite, zeroed
from mmint.backends.cuda.launcher import packed, use_launcher

CHANNELS = 16
# Of PyTorch's operators those that launch nothing: memory, and other views of it.
NOTHING = {
    'alias', 'as_strided', 'detach', 'empty', 'empty_like', 'empty_strided', 'expand', 'permute',
    'select', 'slice', 'split', 't', 'transpose', 'unbind', 'unsqueeze', 'view',
}  # fmt: skip


class Launches(TorchDispatchMode):
    """A launcher that computes nothing, and counts."""

    device_type = 'cpu'

    def __init__(self):
        super().__init__()
        self.ours, self.pytorch = Counter(), Counter()

    def architecture(self, device):
        return 'sm_90a'

    def kernel(self, source, name, device):
        return name

    def launch(self, kernel, grid, block, shared, arguments, device):
        packed(arguments, device)
        self.ours[kernel] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in NOTHING:
            self.pytorch[name] += 1
        return function(*args, **(kwargs or {}))


class Addition(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + x


def conv(taps, **options):
    return nn.Conv2d(CHANNELS, CHANNELS, taps, padding=taps // 2, bias=False, **options)


class Unit(nn.Sequential):
    """What ResNets are made of."""

    def __init__(self):
        super().__init__(conv(3), nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True))


def step(layers):
    """The launches of a training step of ``layers`` between a first and a last one."""
    model = nn.Sequential(conv(1), *layers, conv(1))
    return step_of(model, torch.zeros(2, CHANNELS, 8, 8))


def step_of(model, x):
    """Those of the third training step of a model, when all that is done once is done."""
    mmint.convert(model)
    optimizer = mmint.IntSGD(model.parameters(), 0.1, momentum=0.9)
    for iteration in range(3):
        launches = Launches()
        use_launcher(launches)
        zeroed._latest.of.clear()
        zeroed.zeros((), torch.int32, x.device)
        with launches:
            mmint.begin_iteration(iteration)
            out = model(x)
            out.backward(torch.empty_like(out))
            optimizer.step()
            optimizer.zero_grad()
    return launches


@pytest.fixture(autouse=True)
def counting(monkeypatch, fresh_run):
    monkeypatch.setattr(backends, 'wish', 'cuda')
    yield
    use_launcher(None)
    finite.forget(torch.device('cpu'))


LAYERS = (
    (lambda: conv(3), {
        'quantize_images_8': 2,  # input, gradient
        'kk_small': 2, 'rr_small': 1,
    }),
    (Unit, {
        'quantize_images_8': 2, 'kk_small': 2, 'rr_small': 1,
        'quantize_images_each_8': 2, 'plane_sums_8': 2, 'norm_coefficients': 1, 'norm_grads': 1,
        'largest_made': 2, 'largest_passed': 1,  # mappings read what norms and ReLU do not write
        'relu_passed': 1,
    }),
    (lambda: Addition(conv(3)), {
        'quantize_images_8': 2, 'kk_small': 2, 'rr_small': 1,
        'add_each': 2,  # of outputs, and of gradients
    }),
)  # fmt: skip


@pytest.mark.parametrize('layer, expected', LAYERS, ids=['convolution', 'unit', 'addition'])
def test_what_one_more_layer_adds_to_a_training_step(layer, expected):
    one, two = step([layer()]), step([layer(), layer()])
    assert two.ours - one.ours == expected
    assert not two.pytorch - one.pytorch


def test_many_parameters_are_mapped_and_updated_at_once():
    """Weights are mapped twice, 24 mappings in two launches, and updated 52 in two."""
    for layers, mappings, updates in ((8, 1, 1), (48, 5, 1), (58, 5, 2)):
        ours = step([conv(1) for _ in range(layers)]).ours
        assert ours['largest_of_all'] == ours['quantize_all_8'] == mappings
        assert ours['sgd_largest'] == ours['sgd_step'] == updates


@pytest.mark.slow
def test_launches_of_resnet_50():
    torchvision = pytest.importorskip('torchvision')
    launches = step_of(torchvision.models.resnet50(), torch.zeros(2, 3, 64, 64))
    assert sum(launches.ours.values()) <= 869
    assert sum(launches.pytorch.values()) <= 16


def test_zeroed_memory_belongs_to_one_call(monkeypatch):
    """Calls share a launch and no byte; a long tensor, and one in a capture, gets its own."""
    device = torch.device('cpu')
    zeroed._latest.of.clear()
    with Launches() as launches:
        made = [
            zeroed.zeros(shape, dtype, device)
            for dtype in (torch.int32, torch.int64) for shape in ((), (3,), (2, 5, 7), (0,))
        ]  # fmt: skip
    assert launches.pytorch == {'zeros': 1}
    for number, x in enumerate(made):
        x.fill_(number)
    assert all((x == number).all() for number, x in enumerate(made))
    assert all(x.data_ptr() % x.element_size() == 0 and x.is_contiguous() for x in made)
    with Launches() as launches:
        assert not zeroed.zeros((zeroed.MOST + 1,), torch.int64, device).any()
        monkeypatch.setattr(zeroed, 'capturing', lambda: True)
        assert not zeroed.zeros((), torch.int32, device).any()
    assert launches.pytorch['zeros'] == 2


def test_zeroed_memory_never_ends():
    device = torch.device('cpu')
    given = [zeroed.zeros((zeroed.MOST - 1,), torch.int64, device) for _ in range(20)]
    for x in given:
        assert not x.any()
        x.fill_(1)


def test_memory_zeroed_in_inference_may_be_kept_for_a_backward_pass():
    zeroed._latest.of.clear()
    with torch.inference_mode():
        zeroed.zeros((), torch.int32, torch.device('cpu'))
    assert not zeroed.zeros((), torch.int32, torch.device('cpu')).is_inference()
