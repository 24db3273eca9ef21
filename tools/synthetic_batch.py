"""A batch of random images and annotations, made by the config's own training pipeline.

The pipeline loads and packs what its model trains on (boxes, masks, proposals, semantic maps,
labels, several views of an image, masked patches); the images and annotations that it loads are
random. Detectors' and segmenters' lose their augmentation, which crops, resizes and recolours, so
that images have the size that was asked for; classifiers' and self-supervised models' run whole,
since they make the views that the model wants.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import FUNCTIONS
from torch import Tensor
from torch.nn.functional import interpolate

SIZE = (320, 320)  # of detectors' and segmenters' images, unless one is given
RAW = (256, 256)  # of the images that classifiers' pipelines begin with
LABELS = 10  # classes that the random annotations use, where there are as many
OBJECTS = 5
# The transforms that load and pack, or make targets: all others are augmentation.
KEPT = re.compile(
    'Load|Pack|GenerateEdge|ConcatCDInput|MultiBranch|TransformBroadcaster|UniformRefFrameSample'
)


def synthetic_batch(cfg: Config, batch: int, size: tuple[int, int] | None = None) -> dict:
    """What the data loader of ``cfg`` would give.

    Args:
        cfg: a config whose ``train_dataloader`` says what its model trains on.
        batch: how many images.
        size: their height and width; None is `SIZE`, or for mmpretrain what its pipeline makes.
    """
    lists = list(pipelines((cfg.get('train_dataloader') or {}).get('dataset') or {}))
    if not all(lists):
        raise SystemExit(
            'the config has no `pipeline` in the data set of its `train_dataloader`, configs of '
            'mmdet, mmseg and mmpretrain that train are accepted'
        )
    whole = cfg.get('default_scope') == 'mmpretrain'
    if not whole:
        lists = [without_augmentation(transforms) for transforms in lists]
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(batch):
            transforms = lists[number % len(lists)]
            raw = random_sample(cfg, number, RAW if whole else size or SIZE, Path(folder))
            sample = Compose(transforms)(adapted(raw, transforms))
            if whole and size:
                sample['inputs'] = resized(sample['inputs'], size)
            samples.append(sample)
    return collate_function(cfg)(samples)


def collate_function(cfg: Config) -> partial:
    """The function that makes a batch of samples, as `Runner.build_dataloader` takes it."""
    settings = dict(cfg.train_dataloader.get('collate_fn') or dict(type='pseudo_collate'))
    kind = settings.pop('type')
    return partial(FUNCTIONS.get(kind) if isinstance(kind, str) else kind, **settings)


def parts(model: dict) -> Iterator[dict]:
    """A config and all the configs inside it, the outer ones first."""
    yield model
    for value in model.values():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, dict):
                yield from parts(part)


def type_name(cfg: dict) -> str:
    """The ``type`` of a config without its scope."""
    kind = cfg.get('type')
    return str(getattr(kind, '__name__', kind)).split('.')[-1]


def pipelines(dataset: dict) -> Iterator[list[dict]]:
    """The pipelines of a data set, one for each that it joins, those of its wrappers appended."""
    own = list(dataset.get('pipeline') or [])
    inner = dataset.get('datasets') or [dataset[key] for key in ['dataset'] if key in dataset]
    for each in inner:
        yield from (pipeline + own for pipeline in pipelines(each))
    if not inner:
        yield own


def without_augmentation(transforms: Any) -> Any:
    """The transforms that load and pack; panoptic ones load boxes, masks and a semantic map.

    The panoptic format itself needs panopticapi, for the same result.
    """
    if not isinstance(transforms, (list, tuple)):
        return transforms
    kept = []
    for transform in transforms:
        if not isinstance(transform, dict):
            return transforms  # a list of something else
        if type_name(transform) == 'LoadPanopticAnnotations':
            transform = dict(type='mmdet.LoadAnnotations', with_mask=True, with_seg=True)
        if KEPT.match(type_name(transform)):
            kept.append({key: without_augmentation(value) for key, value in transform.items()})
    return kept


def random_sample(cfg: Config, number: int, size: tuple[int, int], folder: Path) -> dict:
    """What a data set knows of its image of that number; every pipeline takes what it needs."""
    rng = np.random.default_rng(number)
    height, width = size
    model = list(parts(cfg.model))
    counts = [part['num_classes'] for part in model if isinstance(part.get('num_classes'), int)]
    labels = np.arange(min([LABELS, *(count for count in counts if count > 0)]))
    image = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
    mmcv.imwrite(image, str(folder / f'{number}.png'))
    regions = np.concatenate([labels, *stuff(model)])
    semantic = rng.choice(regions, size).astype(np.uint8)
    mmcv.imwrite(semantic, str(folder / f'{number}_labels.png'))
    corner = rng.random((OBJECTS, 2)) * 0.6
    extent = 0.1 + rng.random((OBJECTS, 2)) * 0.3
    boxes = np.concatenate([corner, corner + extent], 1) * [width, height, width, height]
    sample = dict(
        img=image[..., 0] if is_grey(cfg) else image,
        img_path=str(folder / f'{number}.png'),
        img_id=number,
        height=height,
        width=width,
        img_shape=size,
        ori_shape=size,
        scale=(width, height),
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        homography_matrix=np.eye(3, dtype=np.float32),
        seg_map_path=str(folder / f'{number}_labels.png'),
        label_map=None,
        instances=[
            dict(
                bbox=box.tolist(),
                bbox_label=int(rng.choice(labels)),
                mask=[diamond(*box)],
                ignore_flag=0,
                instance_id=instance,
            )
            for instance, box in enumerate(boxes)
        ],
        gt_label=int(rng.choice(labels)),
    )
    if any(re.search('MultiLabel|CSRA', type_name(part)) for part in model):
        sample['gt_label'] = [sample['gt_label']]
    frames = [dict(sample, frame_id=frame) for frame in range(2)]
    return dict(sample, images=frames, video_id=0, video_length=len(frames), key_frame_id=0)


def adapted(sample: dict, transforms: list[dict]) -> dict:
    """The sample with what only some pipelines may find in it."""
    steps = list(parts(dict(transforms=transforms)))
    reduce = any(step.get('reduce_zero_label') for step in steps)
    sample.update(seg_fields=[], reduce_zero_label=reduce)
    names = {type_name(step) for step in steps}
    if 'LoadProposals' in names:
        boxes = np.array([instance['bbox'] for instance in sample['instances']])
        sample['proposals'] = dict(bboxes=boxes, scores=np.linspace(1, 0.5, len(boxes)))
    if 'PackReIDInputs' in names:  # two images of each identity
        return {key: [value] * 2 for key, value in sample.items()}
    return sample


def stuff(model: list[dict]) -> Iterator[np.ndarray]:
    """The labels of a panoptic model that are no things."""
    for part in model:
        if part.get('num_stuff_classes') and part.get('num_things_classes'):
            yield part['num_things_classes'] + np.arange(min(LABELS, part['num_stuff_classes']))
            return


def is_grey(cfg: Config) -> bool:
    """Whether the model takes images of one channel."""
    settings = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    return len(settings.get('mean') or ()) == 1


def diamond(left: float, top: float, right: float, bottom: float) -> list[float]:
    """A polygon that fills half of a box."""
    x, y = (left + right) / 2, (top + bottom) / 2
    return [x, top, right, y, x, bottom, left, y]


def resized(images: Tensor | list[Tensor], size: tuple[int, int]) -> Tensor | list[Tensor]:
    """An image of bytes, or each of its views, brought to a size by nearest pixels."""
    if isinstance(images, (list, tuple)):
        return [resized(image, size) for image in images]
    return interpolate(images[None].float(), size).to(torch.uint8)[0]
