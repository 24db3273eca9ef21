"""`benchmark.py families`: a training step of every family of models, int8 beside float.

Each family is a stock config, or one of this project's, at a size that two cores train in seconds.
Both models of a family live in one process and one allocator, and take turns; medians are reported,
with one and with two threads. `benchmarks.train` says what a step and its peak memory are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from synthetic_step import load_config

from .machine import machine
from .ops import alternate, mean
from .results import save
from .train import peak_memory, step_pair

ROOT = Path(__file__).resolve().parents[2]
THREADS = (1, 2)


class Family(NamedTuple):
    """One model: its config, ``package::path`` or a file of this project, images, their size."""

    name: str
    config: str
    batch: int
    size: tuple[int, int]

    @property
    def path(self) -> str:
        """The config from any working directory."""
        return self.config if '::' in self.config else str(ROOT / self.config)


FAMILIES = (
    Family(
        'Faster R-CNN R50-FPN', 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 2, (320, 320)
    ),
    Family('SSD300', 'mmdet::ssd/ssd300_coco.py', 2, (300, 300)),
    Family('RetinaNet R50-FPN', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 2, (256, 256)),
    Family('Mask R-CNN R50-FPN', 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 2, (256, 256)),
    Family('SSDLite-MobileNetV2', 'configs/bccd/ssdlite_mobilenetv2_bccd.py', 8, (192, 256)),
    Family('YOLOX-tiny', 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', 4, (256, 256)),
    Family('YOLOF R50', 'mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py', 2, (256, 256)),
    Family(
        'quickstart Faster R-CNN', 'configs/quickstart/faster-rcnn_r18_fpn_digits.py', 8, (128, 128)
    ),
    Family(
        'DeepLabV1 R101',
        'configs/deeplabv1/deeplabv1_r101-d8_20k_voc12aug-321x321.py',
        2,
        (161, 161),
    ),
    Family(
        'DeepLabV3 R50',
        'mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512.py',
        2,
        (224, 224),
    ),
    Family('FCN R50', 'mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py', 2, (224, 224)),
    Family('HRNet-18s', 'mmseg::hrnet/fcn_hr18s_4xb4-20k_voc12aug-512x512.py', 2, (256, 256)),
    Family(
        'Fast-SCNN', 'mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py', 2, (256, 512)
    ),
    Family(
        'SegFormer-B0',
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        2,
        (256, 256),
    ),
    Family('ResNet-18, CIFAR', 'mmpretrain::resnet/resnet18_8xb16_cifar10.py', 64, (32, 32)),
    Family('ResNet-18', 'mmpretrain::resnet/resnet18_8xb32_in1k.py', 8, (224, 224)),
    Family('MobileNetV2', 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py', 8, (224, 224)),
    Family(
        'ShuffleNetV2', 'mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py', 8, (224, 224)
    ),
    Family('RegNetX-400MF', 'mmpretrain::regnet/regnetx-400mf_8xb128_in1k.py', 8, (224, 224)),
    Family('ViT-B', 'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py', 2, (224, 224)),
)


def families(args: argparse.Namespace) -> None:
    """The sub-command `families`.

    Raises:
        SystemExit: if ``args.only`` has a name that no family has.
    """
    names = [family.name for family in FAMILIES]
    unknown = set(args.only or ()) - set(names)
    if unknown:
        raise SystemExit(f'--only was given {sorted(unknown)}, accepted are {names}')
    print(machine())
    rows = []
    for family in FAMILIES:
        if args.only is None or family.name in args.only:
            rows += measure(family, args.seconds)
            save(rows, args.json)
    for threads in THREADS:
        ratios = {r['family']: r['ratio'] for r in rows if r['threads'] == threads}
        lowest = min(ratios, key=ratios.__getitem__)
        print(f'{threads} threads: geometric mean {mean(list(ratios.values())):.2f}, '
              f'lowest {ratios[lowest]:.2f} ({lowest})')  # fmt: skip


def measure(family: Family, seconds: float) -> list[dict]:
    """A row for each number of threads, each timed for ``seconds`` and at least three steps."""
    steps = step_pair(load_config(family.path), family.batch, family.size)
    peaks = {f'{kind}_peak_mb': round(peak_memory(step) / 2**20, 1) for kind, step in steps.items()}
    rows = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        int8_ms, float_ms = alternate(list(steps.values()), seconds, least=3)
        row = dict(
            family=family.name,
            config=family.config,
            batch=family.batch,
            size=family.size,
            threads=threads,
            int8_ms=round(int8_ms, 1),
            float_ms=round(float_ms, 1),
            ratio=round(float_ms / int8_ms, 3),
            **peaks,
        )
        rows.append(row)
        print(
            f'{family.name:24}{family.batch:3} x {"x".join(map(str, family.size)):8}'
            f'{threads} threads {int8_ms:9.1f} ms, float {float_ms:9.1f} ms, '
            f'{row["ratio"]:5.2f} times as fast, '
            f'peak {row["int8_peak_mb"]:.0f} MB, float {row["float_peak_mb"]:.0f} MB',
            flush=True,
        )
    return rows
