"""A run is reproducible, resumes bit for bit, and exchanges checkpoints with float."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from tiny_run import TinyClassifier, assert_same, integer, stock, train

from mmint.ops.run import current_run


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    first = train(integer(tmp_path / 'a'))
    assert_same(first, train(integer(tmp_path / 'b')))
    cfg = integer(tmp_path / 'c')
    cfg.randomness.seed = 4
    assert not torch.equal(train(cfg).model.stem.weight, first.model.stem.weight)


def test_the_number_of_threads_does_not_matter(tmp_path):
    runners = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        runners.append(train(integer(tmp_path / str(threads))))
    assert_same(*runners)


class Interrupt(Hook):
    """Ends a run in the middle of its fifth iteration, as a crash would."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 4:
            raise KeyboardInterrupt


def test_a_run_resumed_after_an_interruption_continues_bit_for_bit(tmp_path):
    whole = train(integer(tmp_path / 'a'))
    cfg = integer(tmp_path / 'b')
    runner = RUNNERS.build(cfg)
    runner.register_hook(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert (tmp_path / 'b' / 'last_checkpoint').read_text().endswith('iter_3.pth')
    cfg = integer(tmp_path / 'b')
    cfg.resume = True
    resumed = train(cfg)
    assert resumed.iter == 6
    assert_same(resumed, whole)


@pytest.mark.parametrize('before', [None, 3])
@pytest.mark.parametrize('after', [None, 9])
def test_a_resumed_run_draws_the_bits_of_the_checkpoints_seed(tmp_path, before, after):
    def config(folder, seed):
        cfg = integer(tmp_path / folder, shuffle=False)
        cfg.randomness.seed = seed
        return cfg

    whole = train(config('a', before))
    cfg = config('b', after)
    cfg.merge_from_dict(dict(load_from=str(tmp_path / 'a' / 'iter_3.pth'), resume=True))
    resumed = train(cfg)
    assert resumed.seed == whole.seed == current_run.seed
    assert_same(resumed, whole)


def test_processes_share_the_seed_of_random_bits(tmp_path, monkeypatch):
    """That their parameters stay equal, where `diff_rank_seed` gives each another seed."""
    for module in ('mmengine.runner.utils', 'mmint.openmmlab.engine.hook'):
        monkeypatch.setattr(f'{module}.get_rank', lambda: 2)
    cfg = integer(tmp_path)
    cfg.randomness.diff_rank_seed = True
    assert train(cfg).seed == 3 + 2
    assert (current_run.seed, current_run.rank) == (3, 2)


def test_a_run_that_failed_leaves_no_trace_in_the_next(tmp_path):
    first = train(integer(tmp_path / 'a'))
    cfg = integer(tmp_path / 'b')
    cfg.integer = dict(bits=3)
    with pytest.raises(ValueError, match='bits=3'):
        train(cfg)
    assert_same(train(integer(tmp_path / 'c')), first)


def test_mmengines_activation_checkpointing_draws_the_same_bits(tmp_path):
    cfg = integer(tmp_path / 'a')
    cfg.activation_checkpointing = ['body']
    assert_same(train(cfg), train(integer(tmp_path / 'b')))


def test_an_integer_checkpoint_loads_into_the_float_model_and_back(tmp_path):
    runner = train(integer(tmp_path / 'a'))
    checkpoint = torch.load(tmp_path / 'a' / 'iter_6.pth', weights_only=False)
    TinyClassifier().load_state_dict(checkpoint['state_dict'], strict=True)
    for kind, make in (('float', stock), ('int', integer)):
        cfg = make(tmp_path / kind, steps=9)
        cfg.merge_from_dict(dict(load_from=str(tmp_path / 'a' / 'iter_6.pth'), resume=True))
        continued = train(cfg)
        assert continued.iter == 9
        assert not torch.equal(continued.model.stem.weight, runner.model.stem.weight)
