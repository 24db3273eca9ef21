"""The operators provided where mmcv has no compiled ones."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

mmcv = pytest.importorskip('mmcv')

from mmint.openmmlab.compat import mmcv_ops  # noqa: E402

ROOT = Path(mmcv_ops.__file__).parents[3]
mmcv_ops.provide_mmcv_ops()

from mmcv import ops  # noqa: E402


def random_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * 30], 1)


def greedy_nms(boxes, scores, threshold, offset):
    """The definition, box by box, in Python floats."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        for j in kept:
            a, b = boxes[i], boxes[j]
            width = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, 0)
            height = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, 0)
            areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
            if width * height > threshold * (sum(areas) - width * height):
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.2, 0.5, 0.7])
def test_nms(offset, threshold):
    boxes = random_boxes(80)
    scores = torch.rand(80, generator=torch.Generator().manual_seed(1))
    dets, kept = ops.nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == greedy_nms(boxes.tolist(), scores.tolist(), threshold, offset)
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])
    if offset == 0:
        assert torch.equal(kept, torchvision.ops.nms(boxes, scores, threshold))


def test_nms_of_nothing():
    dets, kept = ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5) and kept.shape == (0,)


def test_offset_changes_the_result():
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2]])  # IoU 1/3, with the offset 6/12
    scores = torch.tensor([0.9, 0.8])
    assert len(ops.nms(boxes, scores, 0.4, offset=0)[1]) == 2
    assert len(ops.nms(boxes, scores, 0.4, offset=1)[1]) == 1


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_roi_align(aligned, sampling_ratio):
    torch.manual_seed(0)
    image = torch.randn(2, 3, 24, 20)
    index = torch.tensor([0.0, 1, 1, 0, 1])[:, None]
    rois = torch.cat([index, random_boxes(5)], 1)
    ours, theirs = (image.clone().requires_grad_() for _ in range(2))
    layer = ops.RoIAlign((5, 7), 0.25, sampling_ratio, aligned=aligned)
    output = layer(ours, rois)
    expected = torchvision.ops.roi_align(theirs, rois, (5, 7), 0.25, sampling_ratio, aligned)
    assert torch.equal(output, expected)
    weight = torch.randn_like(output)
    (output * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert ours.grad.abs().sum() > 0


def test_roi_align_of_a_ramp_is_its_value_at_the_centre():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)  # pixel x has its centre at x + 0.5
    value = ops.RoIAlign(1, 1.0)(ramp, torch.tensor([[0.0, 4, 2, 10, 8]]))
    assert value.item() == pytest.approx(7 - 0.5)


def test_roi_align_without_regions():
    image = torch.randn(1, 3, 8, 8, requires_grad=True)
    output = ops.RoIAlign(7, 1.0)(image, torch.zeros(0, 5))
    output.sum().backward()
    assert output.shape == (0, 3, 7, 7) and not image.grad.any()


def test_roi_align_max_is_refused():
    layer = ops.RoIAlign(7, 1.0, pool_mode='max')
    with pytest.raises(RuntimeError, match="pool_mode='avg'"):
        layer(torch.randn(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]))


@pytest.mark.parametrize('weighted', [False, True])
def test_sigmoid_focal_loss(weighted):
    torch.manual_seed(0)
    gamma, alpha, classes = 2.0, 0.25, 4
    target = torch.tensor([0, 3, 4, 1, 4, 2])  # 4: background
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0]) if weighted else None
    logits = (torch.randn(6, classes) * 3).requires_grad_()
    exact = logits.detach().double().requires_grad_()

    loss = ops.sigmoid_focal_loss(logits, target, gamma, alpha, weight, 'sum')
    wanted = torch.nn.functional.one_hot(target, classes + 1)[:, :classes].double()
    p = exact.sigmoid()
    formula = -alpha * wanted * (1 - p) ** gamma * p.log()
    formula = formula - (1 - alpha) * (1 - wanted) * p**gamma * (1 - p).log()
    if weighted:
        formula = formula * torch.cat([weight, torch.ones(1)])[target][:, None]
    torch.testing.assert_close(loss.double(), formula.sum(), rtol=1e-5, atol=1e-6)
    loss.backward()
    formula.sum().backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


def test_sigmoid_focal_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, 'sum')
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def provided_by_us():
    return mmcv._ext.__spec__.origin == 'mmint'


def test_an_operator_that_is_not_provided_names_itself():
    if not provided_by_us():
        pytest.skip('mmcv has its compiled operators')
    with pytest.raises(RuntimeError, match="'deform_conv_forward'.*mim install mmcv"):
        ops.DeformConv2d(1, 1, 1)(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4))


def test_it_looks_like_a_module():
    import importlib.util

    from mmcv.utils.env import collect_env
    from mmengine.utils.dl_utils.misc import mmcv_full_available

    assert importlib.util.find_spec('mmcv._ext').loader is not None
    assert mmcv_full_available()
    assert not hasattr(mmcv._ext, '__path__')
    assert 'MMCV Compiler' in collect_env()


def test_a_second_call_changes_nothing():
    before = sys.modules['mmcv._ext']
    assert mmcv_ops.provide_mmcv_ops() == ()
    assert sys.modules['mmcv._ext'] is before


def run_python(code):
    command = [sys.executable, '-c', code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def test_one_log_line_names_the_operators():
    if not provided_by_us():
        pytest.skip('mmcv has its compiled operators')
    code = 'from mmint.openmmlab.compat.mmcv_ops import provide_mmcv_ops as f; f(); f()'
    done = run_python(code)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if 'roi_align' in line]
    assert len(lines) == 1 and 'nms' in lines[0]


def test_compiled_operators_win(tmp_path):
    (tmp_path / '_ext.py').write_text('def nms(): return "real"\n')
    done = run_python(
        'import mmcv, sys\n'
        f'mmcv.__path__.append({str(tmp_path)!r})\n'
        'from mmint.openmmlab.compat.mmcv_ops import provide_mmcv_ops\n'
        'assert provide_mmcv_ops() == ()\n'
        'assert "mmcv._ext" not in sys.modules\n'
        'import mmcv._ext\n'
        'print(mmcv._ext.nms())\n'
    )
    if provided_by_us():
        assert done.stdout.splitlines()[-1] == 'real'


def test_without_mmcv_nothing_happens(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    monkeypatch.setattr(mmcv_ops.importlib.util, 'find_spec', lambda name: None)
    assert mmcv_ops.provide_mmcv_ops() == () and 'mmcv._ext' not in sys.modules


def test_stock_faster_rcnn_parts():
    pytest.importorskip('mmdet')
    from mmcv.ops import batched_nms
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    torch.manual_seed(0)
    strides = [4, 8, 16, 32]
    extractor = SingleRoIExtractor(
        dict(type='RoIAlign', output_size=7, sampling_ratio=0), 8, strides
    )
    levels = [torch.randn(2, 8, 256 // s, 256 // s, requires_grad=True) for s in strides]
    sizes = torch.tensor(
        [20.0, 100, 200, 250]
    )  # with the thresholds 112 and 224: levels 0, 0, 1, 2
    rois = torch.stack([torch.tensor([i % 2, 2.0, 3, 2 + s, 3 + s]) for i, s in enumerate(sizes)])
    features = extractor(levels, rois)
    assert features.shape == (4, 8, 7, 7)
    features.sum().backward()
    assert [bool(level.grad.any()) for level in levels] == [True, True, True, False]

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [1, 0, 11, 10]])
    classes = torch.tensor([0, 1, 0])
    dets, kept = batched_nms(
        boxes, torch.tensor([0.5, 0.6, 0.7]), classes, dict(type='nms', iou_threshold=0.5)
    )
    assert kept.tolist() == [2, 1] and dets.shape == (2, 5)
