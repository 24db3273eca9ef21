"""What a run refuses, and what it says."""

import re

import pytest
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import DATASETS, RUNNERS
from tiny_run import integer, stock, train

import mmint  # noqa: F401
from mmint.backends import NonFiniteError
from mmint.layers import IntLayer
from mmint.openmmlab.engine.runner import to_integer


def test_the_wrapper_refuses_another_optimizer(tmp_path):
    with pytest.raises(TypeError, match='given the optimizer Adam, IntSGD is accepted'):
        train(stock(tmp_path, dict(type='Adam', lr=1e-3), 'IntOptimWrapper'))


@pytest.mark.filterwarnings('ignore:.*GradScaler')
def test_mixed_precision_is_refused_where_the_hook_is_written_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    cfg = stock(tmp_path, wrapper='AmpOptimWrapper')
    cfg.custom_hooks = [dict(type='IntTrainingHook')]
    with pytest.raises(ValueError, match="AmpOptimWrapper, .* set runner_type='IntRunner'"):
        train(cfg)


def test_a_nan_in_the_image_stops_the_run_and_names_layer_tensor_and_iteration(tmp_path):
    """Image 9 is in the third batch of four, iteration 2; the weights stay finite."""
    runner = RUNNERS.build(integer(tmp_path, shuffle=False, spoilt=9))
    with pytest.raises(NonFiniteError) as error:
        runner.train()
    message = 'stem was given an input with infinite or NaN values in iteration 2, '
    assert str(error.value).startswith(message) and '\n' not in str(error.value)
    assert runner.iter == 2
    assert all(p.isfinite().all() for p in runner.model.parameters())


@pytest.mark.parametrize('dtype', ['float16', 'float64', 'uint8'])
def test_an_image_that_is_not_float32_stops_the_run_and_names_the_layer(tmp_path, dtype):
    with pytest.raises(TypeError, match=f'^stem was given an input of torch.{dtype}, '):
        train(integer(tmp_path, dtype=dtype))


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(bits=3), '^bits=3 was given, integers from 4 to 16 are accepted'),
        (dict(layer_bits=dict(head=20)), '^bits=20 was given, integers from 4 to 16'),
        (dict(include=['backbone']), "^the pattern 'backbone' was given, which matches no module"),
    ],
)
def test_bad_settings_stop_the_run_before_it_starts(tmp_path, settings, message):
    cfg = integer(tmp_path)
    cfg.integer = settings
    runner = RUNNERS.build(cfg)
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not any(isinstance(m, IntLayer) for m in runner.model.modules())
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('settings', [None, 8, [8], dict(bit=8)])
def test_what_is_no_dict_of_known_settings_is_refused(tmp_path, settings):
    cfg = integer(tmp_path)
    cfg.integer = settings
    keys = 'bits, include, exclude, layer_bits, exponents'
    given = re.escape(f'integer = {settings!r}, a dict of {keys} is')
    with pytest.raises(TypeError, match=f'^the config has {given} accepted: write integer = dict'):
        to_integer(cfg)


def test_settings_in_two_places_are_refused(tmp_path):
    cfg = integer(tmp_path)
    cfg['custom_hooks'] = [dict(type='IntTrainingHook', bits=7)]
    with pytest.raises(ValueError, match='an IntTrainingHook of its own and the key `integer`'):
        to_integer(cfg)


def test_a_missing_file_of_the_data_says_what_to_do(tmp_path):
    def missing(**kwargs):
        open(tmp_path / 'no.json')

    cfg = integer(tmp_path)
    DATASETS.register_module(name='MissingFile', module=missing, force=True)
    cfg['train_dataloader']['dataset'] = dict(type='MissingFile')
    with pytest.raises(FileNotFoundError, match=r'needs .*no.json, which does not exist: put the'):
        RUNNERS.build(cfg).train()
