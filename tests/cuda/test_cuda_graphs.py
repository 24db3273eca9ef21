"""Training steps in CUDA graphs: a replay has the bits of the step that it stands for."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from captures import Graph
from comparison import assert_same, assert_same_fixed_point
from torch import nn

import mmint
from mmint import backends
from mmint.backends import NonFiniteError
from mmint.layers import IntLinear

pytestmark = pytest.mark.usefixtures('emulated', 'fresh_run', 'on_cuda')
STEPS, SIZE, FIRST = 6, 6, 20  # the iteration of the first step is another number


class Residual(nn.Module):
    """A convolution that is used twice, so that its weight is mapped once for two calls."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(self.norm(self.conv(F.relu(self.conv(x)))) + x)


class Training:
    """A model, its optimizer with two groups, and the memory of its images and labels."""

    def __init__(self, nesterov=False, momentum=0.9):
        torch.manual_seed(1)
        self.model = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), Residual(4), nn.Flatten(), nn.Linear(36, 10)
        )
        mmint.convert(self.model)
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        self.optimizer = mmint.IntSGD(
            [dict(params=decayed, weight_decay=1e-2), dict(params=others)],
            0.1, momentum=momentum, nesterov=nesterov,
        )  # fmt: skip
        self.images, self.labels = torch.empty(2, 3, SIZE, SIZE), torch.zeros(2, dtype=torch.int64)

    def fill(self, step):
        """Images, labels and learning rates of a step."""
        draw = torch.Generator().manual_seed(step)
        self.images.copy_(torch.randn(self.images.shape, generator=draw))
        self.labels.copy_(torch.randint(0, 10, self.labels.shape, generator=draw))
        for group, rate in zip(self.optimizer.param_groups, (0.1, 0.03), strict=True):
            group['lr'] = rate / (1 + step)

    def run(self, step):
        """The whole step, to be run or captured."""
        mmint.begin_iteration(FIRST + step, seed=5)
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()

    def eager(self, step):
        self.fill(step)
        self.run(step)

    def captured(self, step):
        self.fill(step)
        with Graph() as graph:
            self.run(step)
        return graph

    def replay(self, graph, step):
        self.fill(step)
        mmint.begin_replay(FIRST + step)
        graph.replay()

    def state(self):
        momenta = [self.optimizer.state[p] for p in self.model.parameters()]
        return copy.deepcopy((self.model.state_dict(), momenta, self.optimizer.steps))


def assert_equal(actual, expected):
    (model, momenta, steps), (same_model, same_momenta, same_steps) = actual, expected
    assert steps == same_steps and model.keys() == same_model.keys()
    for name, x in model.items():
        if x.dtype == torch.float32:
            assert_same(x, same_model[name])
        else:
            assert torch.equal(x, same_model[name])
    for one, other in zip(momenta, same_momenta, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_fixed_point(one[key], other[key])


def expected(monkeypatch, **settings):
    """The states after each step, by the reference."""
    with monkeypatch.context() as patch:
        patch.setattr(backends, 'wish', 'reference')
        training, states = Training(**settings), []
        for step in range(STEPS):
            training.eager(step)
            states.append(training.state())
    return states


@pytest.fixture
def on_cuda(monkeypatch):
    """CUDA's kernels run for tensors on the CPU."""
    monkeypatch.setattr(backends, 'wish', 'cuda')


@pytest.mark.parametrize('nesterov, momentum', [(False, 0.9), (True, 0.9), (False, 0.0)])
def test_replays_have_the_bits_of_eager_steps(monkeypatch, nesterov, momentum):
    """Two eager steps, a capture, two replays, an eager step and another replay."""
    settings = dict(nesterov=nesterov, momentum=momentum)
    states = expected(monkeypatch, **settings)
    mmint.begin_iteration(0)
    training = Training(**settings)
    for step in range(2):
        training.eager(step)
    graph = training.captured(2)
    assert_equal(training.state(), states[1])
    for step in range(2, STEPS):
        if step == 4:
            training.eager(step)
        else:
            training.replay(graph, step)
        assert_equal(training.state(), states[step])


def test_two_graphs_of_one_training(monkeypatch):
    """As for two sizes of images: captured at different iterations, replayed in turn."""
    states = expected(monkeypatch)
    mmint.begin_iteration(0)
    training = Training()
    training.eager(0)
    graphs = [training.captured(1)]
    training.replay(graphs[0], 1)
    graphs.append(training.captured(2))
    for step in range(2, STEPS):
        training.replay(graphs[step % 2], step)
        assert_equal(training.state(), states[step])


def test_weights_are_mapped_in_every_graph_and_after_it():
    """Also where a replay, which leaves no trace in a weight, has changed it."""
    layer, x = IntLinear(6, 5), torch.randn(4, 6)
    mmint.begin_iteration(3)
    layer(x)
    graphs = []
    for _ in range(2):
        with Graph() as graph:
            mmint.begin_iteration(3)
            graphs.append((graph, layer(x)))
    assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=0.1)
    for iteration in (5, 4):
        graph, out = graphs.pop()
        layer.weight.data.normal_()
        mmint.begin_replay(iteration)
        graph.replay()
        now = layer(x)
        mmint.begin_iteration(iteration)
        assert torch.equal(out, now) and torch.equal(layer(x), now)


def test_an_iteration_is_begun_inside_of_the_capture():
    training = Training()
    training.eager(0)
    mmint.begin_iteration(1)
    sentence = 'no iteration was begun in it.*call mmint.begin_iteration inside of the capture'
    with Graph():
        with pytest.raises(RuntimeError, match=sentence):
            training.model(training.images)
        with pytest.raises(RuntimeError, match=sentence):
            training.optimizer.step()


def test_a_graph_holds_one_iteration():
    with Graph():
        mmint.begin_iteration(3)
        mmint.begin_iteration(3)
        with pytest.raises(
            RuntimeError, match='iteration 4 was begun where iteration 3 is being c'
        ):
            mmint.begin_iteration(4)
        with pytest.raises(RuntimeError, match='begin_replay was called while a CUDA graph is bei'):
            mmint.begin_replay(3)


def test_a_first_step_has_no_momentum_to_go_on_from():
    training = Training()
    training.fill(0)
    with pytest.raises(RuntimeError, match='first step of parameter 0 .*call step.. once before'):
        with Graph():
            training.run(0)


def test_what_a_graph_holds_fast_may_not_change():
    training = Training()
    training.eager(0)
    training.captured(1)
    with pytest.raises(RuntimeError, match='a state was given to .* captured in a CUDA graph'):
        training.optimizer.load_state_dict(training.optimizer.state_dict())
    copies = copy.deepcopy(training.optimizer), pickle.loads(pickle.dumps(training.optimizer))
    for other in copies:
        other.load_state_dict(training.optimizer.state_dict())
    training.optimizer.param_groups[1]['weight_decay'] = 0.5
    with pytest.raises(RuntimeError, match='settings momentum, weight_decay.*capture it again'):
        mmint.begin_replay(1)


def test_what_is_not_finite_in_a_replay_is_named_before_the_next():
    training = Training()
    training.eager(0)
    graph = training.captured(1)
    training.fill(1)
    training.images.fill_(torch.inf)
    mmint.begin_replay(FIRST + 1)
    graph.replay()
    with pytest.raises(NonFiniteError, match='input with infinite or NaN values in iteration 21,'):
        mmint.begin_replay(FIRST + 2)
    assert all(p.isfinite().all() for p in training.model.parameters())
