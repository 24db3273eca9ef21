"""Comparing float and integer runs: the statistics, reading work folders, the page, going on."""

import json
import re
import subprocess
import sys

import pytest

pytest.importorskip('mmengine')

import compare
from paired_runs import Comparison
from paired_statistics import Paired, paired, pairs_for, power, visible
from run_folder import read_run
from test_tools import FLOAT_CONFIG, INTEGER_CONFIG, MODEL, PLAIN_CONFIG, ROOT

# ---- statistics ----


def test_the_interval_is_students():
    """Five differences; t of 4 degrees of freedom at 97.5 % is 2.7764 in every table."""
    found = paired([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found[:2] == (5, 3.0)
    half = 2.776445 * 2.5**0.5 / 5**0.5
    assert found[2:] == pytest.approx((2.5**0.5, 3 - half, 3 + half), rel=1e-6)


def test_one_pair_has_no_interval():
    assert paired([0.5]) == Paired(1, 0.5, None, None, None)


@pytest.mark.parametrize('effect, pairs', [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_how_many_pairs_show_small_medium_and_large_effects(effect, pairs):
    """G*Power 3.1: difference between two dependent means, two-tailed, 5 %, power 80 %."""
    assert pairs_for(effect, 1.0) == pairs
    assert pairs_for(-3 * effect, 3.0) == pairs


def test_a_difference_that_a_thousand_pairs_do_not_show():
    assert pairs_for(0.01, 1.0) is None


def test_what_is_visible_needs_as_many_pairs_as_there_are():
    for pairs in (2, 5, 20):
        assert power(visible(1.5, pairs), 1.5, pairs) == pytest.approx(0.8)
        assert pairs_for(visible(1.5, pairs) + 1e-6, 1.5) == pairs


def test_differences_that_are_all_the_same():
    assert paired([0.5, 0.5]) == (2, 0.5, 0, 0.5, 0.5)
    assert pairs_for(0.1, 0) == 2 and visible(0, 2) == 0


# ---- work folders ----


def write_records(folder, start, records):
    path = folder / start / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))


def training(steps, loss=1.0, **more):
    return [dict(loss=loss, time=0.5, data_time=0.1, iter=s, step=s, **more) for s in steps]


def a_run(folder, metric=0.5, loss=1.0, name='coco/bbox_mAP'):
    evaluation = {name: metric, 'coco/bbox_mAP_l': -1.0, 'time': 0.1, 'data_time': 0.1, 'step': 6}
    write_records(folder, '20260101_000000', [*training(range(10, 61, 10), loss), evaluation])
    return read_run(folder)


def test_a_run_is_read(tmp_path):
    run = a_run(tmp_path)
    assert run.losses == [(step, 1.0) for step in range(10, 61, 10)]
    assert run.metrics == {'coco/bbox_mAP': 50.0}  # no data are no metric, fractions are per cent
    assert run.seconds == 60 * 0.5
    assert run.peak_memory is None and run.checkpoint() is None


def test_what_a_resumption_did_again_counts_once(tmp_path):
    write_records(tmp_path, '20260101_000000', [*training((10, 20, 30), 9.0), dict(mIoU=1, step=0),
                                                *training((40,), 9.0)])  # fmt: skip
    write_records(tmp_path, '20260101_000100', [*training((40, 50, 60), 3.0), dict(mIoU=2, step=0)])
    run = read_run(tmp_path)
    assert run.losses == [(10, 9.0), (20, 9.0), (30, 9.0), (40, 3.0), (50, 3.0), (60, 3.0)]
    assert run.evaluations == [(30, {'mIoU': 1}), (60, {'mIoU': 2})]
    assert run.seconds == 60 * 0.5


def test_the_last_sixth_of_the_loss(tmp_path):
    write_records(tmp_path, 'a', [])
    write_records(tmp_path, '20260101_000000', [*training(range(1, 11), 7.0), *training((11, 12))])
    assert read_run(tmp_path).last_loss() == 1.0


def test_a_run_that_was_stopped_has_no_metrics(tmp_path):
    run = a_run(tmp_path)
    write_records(tmp_path, '20260101_000100', training((70,)))
    (tmp_path / '20260101_000100' / 'vis_data' / 'scalars.json').open('a').write('{"loss": 1')
    assert read_run(tmp_path).metrics == {} and run.metrics
    with pytest.raises(SystemExit, match='with no evaluation after its last iteration, one of a'):
        Comparison([(run, read_run(tmp_path))])


def test_what_test_py_found_is_an_evaluation(tmp_path):
    write_records(tmp_path, '20260101_000000', training((10,)))
    (tmp_path / '20260101_000100').mkdir()
    found = {'accuracy/top1': 90.0, 'time': 1.0}
    (tmp_path / '20260101_000100' / '20260101_000100.json').write_text(json.dumps(found))
    assert read_run(tmp_path).metrics == {'accuracy/top1': 90.0}


def test_memory_is_pytorchs_on_a_gpu_and_else_the_process_s(tmp_path):
    write_records(tmp_path / 'gpu', '20260101_000000', training((10, 20), memory=123))
    a_run(tmp_path / 'cpu')
    for name in ('gpu', 'cpu'):
        (tmp_path / name / 'finished.json').write_text('{"peak_memory": 456.5}')
    assert read_run(tmp_path / 'gpu').peak_memory == 123
    assert read_run(tmp_path / 'cpu').peak_memory == 456.5


def test_a_folder_may_move_with_its_checkpoint(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/iter_6.pth')
    assert read_run(tmp_path).checkpoint() == tmp_path / 'iter_6.pth'


# ---- the comparison and its page ----


@pytest.fixture
def pairs(tmp_path):
    """Differences of -1, -2 and -3 points, losses 2 % above float's."""
    return [
        (
            a_run(tmp_path / f'float-{i}', 0.5),
            a_run(tmp_path / f'integer-{i}', 0.49 - i / 100, 1.02),
        )
        for i in range(3)
    ]


def test_pairs_are_compared(pairs):
    main, loss, seconds = Comparison(pairs).rows
    assert main.differences == pytest.approx([-1, -2, -3])
    assert main.difference.mean == pytest.approx(-2)
    assert main.difference.low == pytest.approx(-2 - 4.302653 / 3**0.5)
    assert loss.differences == pytest.approx([2, 2, 2])
    assert seconds.differences == [0, 0, 0]


@pytest.mark.parametrize('count, words', [(3, 'Zero is inside'), (1, 'One pair says nothing')])
def test_the_answer_says_what_it_is_worth(pairs, count, words):
    assert words in Comparison(pairs[:count]).answer()[1]


def test_zero_outside_is_said(tmp_path):
    pairs = [(a_run(tmp_path / f'a{i}', 0.5), a_run(tmp_path / f'b{i}', 0.4 + i / 1000))
             for i in range(3)]  # fmt: skip
    assert 'Zero is outside: integer is behind here.' in Comparison(pairs).answer()[1]


def test_runs_without_a_metric_in_common_are_refused(tmp_path):
    with pytest.raises(SystemExit, match='runs of one evaluator are accepted'):
        Comparison([(a_run(tmp_path / 'a'), a_run(tmp_path / 'b', name='mIoU'))])


def test_folders_become_a_page_that_needs_no_network(pairs, tmp_path, monkeypatch, capsys):
    one, other = ([str(run.folder) for run in runs] for runs in zip(*pairs, strict=True))
    out = tmp_path / 'out'
    arguments = ['--float-runs', *one, '--integer-runs', *other, '--work-dir', str(out)]
    monkeypatch.setattr(sys, 'argv', ['compare.py', *arguments])
    compare.main()
    assert 'mAP: integer -2.0 points from float, 95 % interval -4.5 to +0.5 (3 pairs).' in (
        capsys.readouterr().out
    )
    numbers = json.loads((out / 'compare.json').read_text())
    assert numbers['rows'][0]['mean'] == pytest.approx(-2)
    page = (out / 'compare.html').read_text()
    assert page.count('<svg') == page.count('</svg>') == 3
    outside = re.findall(r'(?:src|href|url\()=?["\']?(?!data:|#)([a-z]+:[^"\')]*)', page)
    assert not [link for link in outside if 'w3.org' not in link]
    assert '−4.5 to +0.5' in page and 'Not drawn' in page


@pytest.mark.parametrize('given', [['one.py'], ['a.py', 'b.py', '--seeds', '0'],
                                   ['--float-runs', 'a', 'b', '--integer-runs', 'c']])  # fmt: skip
def test_what_does_not_go_together_is_refused(given, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['compare.py', *given])
    with pytest.raises(SystemExit):
        compare.parse_args()
    assert 'give a float and an integer config' in capsys.readouterr().err


# ---- training ----

EVALUATED = """
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ToolData'),
)
val_cfg = dict()
val_evaluator = dict(type='ToolMetric')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
"""


@pytest.mark.slow
def test_it_trains_both_and_goes_on_where_it_was_stopped(tmp_path):
    (tmp_path / 'tool_model.py').write_text(MODEL)
    (tmp_path / 'float.py').write_text(FLOAT_CONFIG + EVALUATED)
    (tmp_path / 'plain.py').write_text(PLAIN_CONFIG)
    (tmp_path / 'integer.py').write_text(INTEGER_CONFIG)
    command = [sys.executable, ROOT / 'tools' / 'compare.py', 'plain.py', 'integer.py',
               '--seeds', '1', '--work-dir', 'out']  # fmt: skip
    environment = {'PYTHONPATH': f'{ROOT}:{tmp_path}', 'PATH': '/usr/bin', 'OMP_NUM_THREADS': '1'}

    def call(*options):
        return subprocess.run(
            [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    first = call()
    assert first.returncode == 0, first.stderr
    assert 'accuracy' in first.stdout and 'peak memory' in first.stdout
    before = json.loads((tmp_path / 'out' / 'compare.json').read_text())

    whole, stopped = (tmp_path / 'out' / name for name in ('float-0', 'integer-0'))
    (stopped / 'finished.json').unlink()
    (stopped / 'iter_2.pth').unlink()
    (stopped / 'last_checkpoint').write_text(str(stopped / 'iter_1.pth'))
    again = call()
    assert again.returncode == 0, again.stderr
    assert 'float: train.py' not in again.stdout and 'integer: train.py' in again.stdout
    assert len(list(whole.glob('2*'))) == 1 and len(list(stopped.glob('2*'))) == 2
    assert [step for step, _ in read_run(stopped).losses] == [1, 2]
    after = json.loads((tmp_path / 'out' / 'compare.json').read_text())
    assert after['rows'][0] == before['rows'][0]

    # Stopped in its last evaluation: nothing is left to train.
    (stopped / 'finished.json').unlink()
    for path in stopped.glob('*/vis_data/scalars.json'):
        lines = [line for line in path.read_text().splitlines() if 'accuracy' not in line]
        path.write_text('\n'.join(lines) + '\n')
    evaluated = call()
    assert evaluated.returncode == 0, evaluated.stderr
    assert 'integer: test.py' in evaluated.stdout
    after = json.loads((tmp_path / 'out' / 'compare.json').read_text())
    assert after['rows'][0] == before['rows'][0]

    other = call('--cfg-options', 'train_cfg.max_iters=3')
    assert other.returncode == 1 and 'runs of other settings' in other.stderr
