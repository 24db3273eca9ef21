"""mmdet's SSD head predicts once mmint is imported, before mmdet or after it."""

import subprocess
import sys

import pytest

BEFORE = """
import mmint
from mmdet.models.dense_heads import SSDHead
"""
AFTER = """
import sys
import mmint
from mmint.openmmlab.compat.ssd_head import let_ssd_predict
sys.meta_path = [f for f in sys.meta_path if type(f).__module__ != let_ssd_predict.__module__]
from mmdet.models.dense_heads import SSDHead
let_ssd_predict()
"""
PREDICT = """
import torch
from mmengine.config import ConfigDict
head = SSDHead(
    num_classes=3,
    in_channels=(8,) * 6,
    anchor_generator=dict(
        type='SSDAnchorGenerator',
        input_size=300,
        strides=[8, 16, 32, 64, 100, 300],
        ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        basesize_ratio_range=(0.15, 0.9),
    ),
).eval()
cfg = ConfigDict(nms_pre=9, nms=dict(type='nms', iou_threshold=0.5), score_thr=0, max_per_img=5)
sizes = 38, 19, 10, 5, 3, 1
with torch.no_grad():
    out = head(tuple(torch.randn(1, 8, n, n) for n in sizes))
    meta = dict(img_shape=(300, 300), scale_factor=(1, 1))
    (found,) = head.predict_by_feat(*out, batch_img_metas=[meta], cfg=cfg)
assert 0 < len(found) <= 5
"""


@pytest.mark.slow
@pytest.mark.parametrize('imports', [BEFORE, AFTER], ids=['before', 'after'])
def test_an_ssd_head_predicts(imports):
    subprocess.run([sys.executable, '-c', imports + PREDICT], check=True)
