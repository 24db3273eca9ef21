"""The audit counts what a training step executes, to the multiply-add, and says why."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmint import backends, layers
from mmint.analysis import Recorder
from mmint.analysis.float_operations import KINDS
from mmint.analysis.integer_operations import rule_for
from mmint.analysis.report import ARITHMETICS, PHASES, FloatOperation, Report
from mmint.backends import backend_for, cpu, reference
from mmint.backends.contract import OPERATIONS
from mmint.conversion import convert
from mmint.ops.run import current_run
from mmint.optim import IntSGD

CPU = torch.device('cpu')
ROOT = Path(__file__).parents[2]
BACKENDS = [
    'reference',
    pytest.param('cpu', marks=pytest.mark.skipif(not cpu.available(), reason='no C kernels')),
]


class Residual(nn.Module):
    """One of each kind, with shapes that are counted by hand."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.branch = nn.Conv2d(4, 4, 1, bias=False)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.pool(self.relu(self.norm(self.conv(x))))  # 2x4x8x8, 2x4x4x4
        x = x + self.branch(x)
        return self.fc(x.mean((2, 3)))


# Forward, backward, optimizer.
COUNTS = {
    'convolution': (
        512 * 27 + 128 * 4,
        512 * 27 + 512 + 2 * 128 * 4,  # the images need no gradient; one bias
        0,
    ),
    'linear': (2 * 5 * 4, 2 * 2 * 5 * 4 + 2 * 5, 0),
    'matmul': (0, 0, 0),
    'norm': (2 * 512, 2 * 512, 0),
    'addition': (128, 128, 0),
    'pooling': (128, 128, 0),
    'interpolation': (0, 0, 0),
    'optimizer': (0, 0, 4 * (3 * 4 * 9 + 4 + 2 * 4 + 4 * 4 + 4 * 5 + 5)),
}


def residual_report(optimizer=torch.optim.SGD, bits=None):
    """Of the second step, whose optimizer has a momentum buffer."""
    torch.manual_seed(0)
    model = Residual()
    if bits:
        convert(model, bits)
    optimizer = optimizer(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(torch.randn(2, 3, 8, 8)), torch.tensor([1, 3]))
        loss.backward()
        optimizer.step()

    step()
    with Recorder(model) as recorder:
        step()
    return recorder.report


def audit(model, *inputs):
    """The report of a forward and a backward pass."""
    with Recorder(model) as recorder:
        model(*inputs).sum().backward()
    return recorder.report


def operations(report, **wanted):
    return [
        o for o in report.float_operations if all(getattr(o, k) == v for k, v in wanted.items())
    ]


def totals(report):
    """Integer and float together, by kind and phase."""
    return {
        kind: tuple(sum(report.multiply_adds(kind, p, a) for a in ARITHMETICS) for p in PHASES)
        for kind in KINDS
    }


def test_a_float_model_has_no_integer_share_and_the_multiply_adds_counted_by_hand():
    report = residual_report()
    assert totals(report) == COUNTS
    assert report.share() == 0
    assert all(o.kind or o.reason == 'loss' for o in report.float_operations)


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_converted_model_does_the_same_in_integers_and_only_its_loss_in_float(
    backend, monkeypatch
):
    monkeypatch.setattr(backends, 'wish', backend)
    report = residual_report(IntSGD, bits=8)
    assert totals(report) == COUNTS
    assert report.share() == 1
    assert {o.reason for o in report.float_operations} == {'loss'}


@pytest.mark.skipif(not cpu.available(), reason='no C kernels')
def test_all_backends_have_the_same_report(monkeypatch):
    reports = []
    for backend in ('reference', 'cpu'):
        monkeypatch.setattr(backends, 'wish', backend)
        reports.append(residual_report(IntSGD, bits=8).to_json())
    assert reports[0] == reports[1]


@pytest.mark.parametrize('trains', [True, False])
@pytest.mark.parametrize(
    ('name', 'settings', 'shape'),
    [
        ('Conv2d', dict(stride=2, padding=1, groups=2), (2, 4, 9, 9)),
        ('Conv2d', dict(dilation=2, groups=2, bias=False), (2, 4, 9, 9)),
        ('ConvTranspose2d', dict(stride=2, groups=2), (2, 4, 5, 5)),
        ('Linear', dict(), (2, 3, 4)),
        ('Linear', dict(bias=False), (5, 4)),
        ('BatchNorm2d', dict(), (2, 4, 5, 5)),
        ('BatchNorm2d', dict(affine=False), (2, 4, 5, 5)),
        ('GroupNorm', dict(), (2, 4, 5, 5)),
        ('LayerNorm', dict(), (2, 3, 4)),
    ],
)
def test_every_layer_costs_the_same_in_integers_as_in_float(name, settings, shape, trains):
    sizes = dict(Conv2d=(4, 6, 3), ConvTranspose2d=(4, 6, 3), Linear=(4, 6), GroupNorm=(2, 4))
    reports = []
    for layer in (getattr(nn, name), getattr(layers, f'Int{name}')):
        model = nn.Sequential(layer(*sizes.get(name, (4,)), **settings)).train(trains)
        reports.append(audit(model, torch.randn(shape, requires_grad=True)))
    stock, integer = reports
    assert totals(stock) == totals(integer)
    assert stock.share() == 0 and integer.share() == 1


def test_gradients_that_meet_are_additions():
    """At a fork in the network, at a weight used twice, and in a parameter's gradient."""

    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            x = self.fc(x).relu()
            return self.fc(x).relu() * self.fc(x).relu()  # the fork, and the weight thrice

    model, x = Fork(), torch.randn(3, 4)
    report = audit(model, x)
    (meeting,) = operations(report, reason='gradient accumulation')
    assert (meeting.phase, meeting.module, meeting.operator) == ('backward', 'fc', 'add')
    assert (meeting.calls, meeting.elements) == (3, 3 * 4 + 2 * 4 * 4)
    again = sum(o.elements for o in operations(audit(model, x), reason='gradient accumulation'))
    assert again == meeting.elements + 4 * 4


def test_attention_counts_its_products():
    class Attention(nn.Module):
        def __init__(self, fused):
            super().__init__()
            self.fused = fused

        def forward(self, query, key, value):
            if self.fused:
                return F.scaled_dot_product_attention(query, key, value)
            return (query @ key.transpose(-2, -1)).softmax(-1) @ value

    tensors = [torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7)]
    product = 2 * 3 * 5 * 7 * 8
    assert totals(audit(Attention(fused=False), *tensors))['matmul'] == (
        2 * product,
        4 * product,
        0,
    )
    fused = audit(Attention(fused=True), *tensors)  # computes the scores anew
    assert totals(fused)['matmul'] == (2 * product, 5 * product, 0)
    (softmax,) = operations(audit(Attention(fused=False), *tensors), operator='softmax')
    assert (softmax.reason, softmax.elements, softmax.kind) == ('softmax', 2 * 3 * 5 * 7, None)


def test_what_compares_and_moves_is_not_listed():
    class Exact(nn.Module):
        def forward(self, x):
            x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 2).relu()
            x = torch.cat([x, x.flip(0)])
            x = F.interpolate(x, scale_factor=2, mode='nearest')
            return x.clamp(-1, 1).permute(0, 2, 3, 1).reshape(-1).sort()[0][:5]

    with Recorder(model := Exact()) as recorder:
        model(torch.randn(2, 3, 6, 6))
    assert not recorder.report.float_operations
    report = audit(model, torch.randn(2, 3, 6, 6, requires_grad=True))
    listed = {o.operator for o in operations(report, phase='backward')}
    assert listed == {'upsample_nearest2d_backward', 'add'}  # cat's two operands are one tensor


def test_max_pooling_adds_the_gradients_of_windows_that_overlap():
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    for bits in (None, 8):
        for stride, elements in ((3, 0), (2, 2 * 3 * 3 * 3)):
            model = nn.Sequential(nn.MaxPool2d(3, stride))
            if bits:
                convert(model, bits)
            assert totals(audit(model, x))['pooling'] == (0, elements, 0)


@pytest.mark.parametrize('size', [(7, 9), (2, 3)])
def test_resizing_costs_the_same_in_integers_an_element_of_the_larger_side(size):
    class Resizing(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return F.interpolate(x, size, mode='bilinear')

    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    larger = 2 * 3 * max(4 * 5, size[0] * size[1])
    for bits in (None, 8):
        model = Resizing()
        if bits:
            convert(model, bits)
        report = audit(model, x)
        assert totals(report)['interpolation'] == (larger, larger, 0)
        assert report.share(['interpolation']) == bool(bits)


def test_reasons_come_from_the_place_and_from_the_operator():
    class Reasons(nn.Module):
        def __init__(self):
            super().__init__()
            self.gelu = nn.GELU()
            self.drop = nn.Dropout(0.5)
            self.criterion = nn.MSELoss()

        def forward(self, x):
            x = F.interpolate(self.drop(self.gelu(x)), scale_factor=2, mode='bilinear')
            x = torch.sigmoid(x) * 3 + torch.cumsum(x, 0)
            return self.criterion(x, torch.zeros_like(x))

    report = audit(Reasons(), torch.randn(2, 3, 4, 4, requires_grad=True))
    for phase in ('forward', 'backward'):
        found = {o.reason: o.module for o in operations(report, phase=phase)}
        assert found['dropout'] == 'drop'
        assert found['interpolation'] == found['element-wise product'] == found['other'] == ''
        assert found['loss'] == 'criterion'
        modules = {o.module for o in operations(report, reason='activation function', phase=phase)}
        assert modules == {'', 'gelu'}


def test_products_of_losses_and_of_matchers_are_not_the_networks_but_convolutions_are():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4, bias=False)

        def forward(self, x, target):
            return self.loss_by_feat(self.fc(x), target)

        def loss_by_feat(self, x, target):
            similarity = x @ target.T
            kernels = x.view(3, 4, 1, 1)  # dynamic: predicted
            return similarity.logsumexp(1).sum() + F.conv2d(torch.ones(1, 4, 2, 2), kernels).sum()

    x, target = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    for bits in (None, 8):
        model = Head()
        if bits:
            convert(model, bits)
        counted = totals(audit(model, x, target))
        assert counted['linear'] == (3 * 4 * 4, 2 * 3 * 4 * 4, 0)
        assert counted['matmul'] == (0, 0, 0)
        assert counted['convolution'] == (3 * 4 * 4, 3 * 4 * 4, 0)
    (product,) = operations(audit(Head(), x, target), operator='mm', module='', phase='forward')
    assert (product.reason, product.kind) == ('loss', None)


def test_a_recomputed_part_counts_in_the_backward_pass_under_its_modules():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4, bias=False), nn.GELU())

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    current_run.begin_iteration(0)
    report = audit(Checkpointed(), torch.randn(3, 4, requires_grad=True))
    assert totals(report)['linear'] == (3 * 4 * 4, 3 * 3 * 4 * 4, 0)
    assert {o.module for o in operations(report, operator='gelu')} == {'inner.1'}
    assert {o.module for o in operations(report, operator='gelu_backward')} == {'inner.1'}


def test_the_phases_end_with_clipping_and_the_optimizer():
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    with Recorder(model) as recorder:
        model(torch.randn(2, 4)).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    clipping = operations(recorder.report, reason='gradient clipping')
    stepping = operations(recorder.report, reason='optimizer')
    assert clipping and stepping
    assert {o.phase for o in clipping + stepping} == {'optimizer'}
    assert {o.kind for o in stepping} == {'optimizer'} and {o.kind for o in clipping} == {None}


def test_every_operation_of_backends_has_a_rule():
    for name in OPERATIONS:
        rule_for(name)


def test_an_operation_without_a_rule_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(backends, 'wish', 'reference')
    monkeypatch.setattr('mmint.analysis.recorder.OPERATIONS', OPERATIONS | {'fft'})
    with pytest.raises(NotImplementedError, match='backends have the operation fft'):
        audit(nn.Linear(2, 2), torch.randn(1, 2))
    assert backend_for(CPU) is reference


def test_a_step_that_fails_leaves_the_backend_as_it_was(monkeypatch):
    monkeypatch.setattr(backends, 'wish', 'reference')
    convert(model := nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match='was given an input of shape'):
        audit(model, torch.randn(1, 3))
    assert backend_for(CPU) is reference


def test_the_text_shows_what_is_all_integer_and_what_is_not():
    stock, integer = residual_report().to_text(), residual_report(IntSGD, bits=8).to_text()
    assert stock.startswith('0.00 % of') and 'native_batch_norm_backward' in stock
    assert integer.startswith('100.00 % of') and 'native_batch_norm' not in integer
    assert 'log_softmax' in stock and 'log_softmax' in integer


def test_a_share_is_rounded_down_in_the_text():
    report = Report()
    report.add_integer('forward', 'linear', 10**6)
    report.add_float(FloatOperation('forward', 'linear', 'mm', 'fc', 'linear', 1, 1, 1))
    assert report.share() > 0.999999 and report.to_text().startswith('99.99 % of')


@pytest.mark.parametrize('exponents', ['free', 'tensor'])
def test_tensors_with_several_exponents_are_counted(exponents):
    model = Residual()
    convert(model, exponents=exponents)
    with Recorder(model) as recorder:
        model(torch.randn(2, 3, 8, 8)).sum().backward()
    free = recorder.report.mappings['free']
    # Of the norm: input and gradient. Of three weights, and of two for their inputs' gradients.
    assert free == (7 if exponents == 'free' else 0)
    assert f'{free} of {sum(recorder.report.mappings.values())} mapped' in recorder.report.to_text()


@pytest.mark.slow
def test_the_command_audits_a_detector(tmp_path):
    config = ROOT / 'configs/quickstart/faster-rcnn_r18_fpn_int8_digits.py'
    path = tmp_path / 'report.json'
    command = [sys.executable, 'tools/audit.py', str(config), '--json', str(path)]
    options = ['--size', '128', '128', '--cfg-options', 'model.roi_head.bbox_head.num_classes=12']
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(path.read_text())
    assert report['size'] == [128, 128] and report['optimizer'] == 'IntSGD'
    for kind in ('convolution', 'linear', 'optimizer'):
        assert report['shares'][kind] == 1
    assert 0.98 < report['integer_mac_share'] <= 1
    reasons = {o['reason'] for o in report['float_operations']}
    assert {'loss', 'box coding', 'target assignment', 'RoI sampling'} <= reasons
    assert all(reason in done.stdout for reason in reasons)


def test_what_a_norm_does_not_write_does_not_move_between_layers(monkeypatch):
    """An element of 4 bytes: written and read by norm, ReLU and the mapping of the next layer.

    So is its gradient, of which what the next layer writes is read once, through ReLU's mask.
    """
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    convert(model)
    elements, moved = 2 * 4 * 8 * 8, []
    for wish in ('0', '1'):
        monkeypatch.setattr('mmint.ops.deferred.wish', wish)
        with Recorder(model) as recorder:
            model(torch.randn(2, 3, 8, 8)).sum().backward()
        moved.append(recorder.report.to_json()['bytes_between_layers'])
    written, deferred = moved
    assert written['float32'] - deferred['float32'] == 8 * 4 * elements
    assert deferred['integer'] - written['integer'] == elements  # read for ReLU's bits
