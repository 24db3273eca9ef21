"""tools/noise.py: what it measures of a run, and regions that stay the same."""

import io
import json
import sys
from contextlib import redirect_stdout

import pytest

pytest.importorskip('mmengine')

import noise
import torch
from fixed_samples import FixedSamples
from noise_report import Layer
from test_tools import FLOAT_CONFIG, INTEGER_CONFIG, MODEL
from torch import nn
from torchvision.ops import RoIAlign

from mmint import convert
from mmint.analysis.isolation import Isolation


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """The numbers and what was printed."""
    folder = tmp_path_factory.mktemp('noise')
    (folder / 'tool_model.py').write_text(MODEL)
    (folder / 'float.py').write_text(FLOAT_CONFIG)
    (folder / 'integer.py').write_text(INTEGER_CONFIG)
    arguments = [str(folder / 'integer.py'), '--draws', '3', '--batches', '3']
    out = folder / 'out'
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.syspath_prepend(folder)
        patch.setattr(sys, 'argv', ['noise.py', *arguments, '--out', str(out)])
        noise.main()
    assert '<svg' in (out / 'noise.svg').read_text()
    return json.loads((out / 'noise.json').read_text()), printed.getvalue()


def test_it_measures_each_layer_and_role(measured):
    numbers, text = measured
    whole = numbers['whole']
    assert 0.001 < whole['rounding'] < whole['batches'] < 5
    assert numbers['wide'] < whole['rounding'] / 30
    for part, value in whole['parts'].items():
        assert (value < numbers['wide'] * 10) if 'norm' in part else (0 < value < 2)
    assert [layer['name'] for layer in numbers['layers']] == ['conv', 'head']
    assert numbers['sources'].keys() == {'conv', 'head'}
    assert 'It adds' in text


def test_the_line_that_helps_most_helps(measured):
    numbers, text = measured
    line = [line for line in text.splitlines() if line.startswith('integer = dict(')][-1]
    settings = eval(line.removeprefix('integer = '))
    assert settings['layer_bits'] == numbers['settings']['layer_bits']
    assert set(settings['layer_bits'].values()) == {16}
    assert numbers['mended'] < numbers['whole']['rounding']


def test_a_layer_whose_width_does_not_count_is_not_suggested():
    """RoIAlign has 16 bits, whatever its ``bits`` says."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), RoIAlign(1, 1.0, 1))
    convert(model)
    assert noise.suggest({'0': 0.3}, Isolation(model)) == {'0': 16}


def test_a_gradient_below_its_noise_is_weak():
    parts = {}
    assert Layer('a', 1.0, 0.0, 0.6, 0.0, parts).weak
    assert not Layer('a', 1.0, 0.0, 0.58, 0.0, parts).weak


def test_samplers_choose_the_same_again():
    samplers = pytest.importorskip('mmdet.models.task_modules.samplers')

    class Inner(samplers.BaseSampler):
        def _sample_pos(self):
            pass

        def _sample_neg(self):
            pass

        def sample(self):
            return torch.rand(3)

    class Outer(Inner):
        def sample(self):
            return super().sample() + 1

    sampler, fixed = Outer(1, 0.5), FixedSamples()
    with fixed.recorded():
        first = [sampler.sample(), sampler.sample()]
    for _ in range(2):
        with fixed.replayed():
            again = [sampler.sample(), sampler.sample()]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(sampler.sample(), first[0])
