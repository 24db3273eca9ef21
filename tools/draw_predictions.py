"""Draws what a checkpoint of an mmdet or mmseg config predicts, images side by side.

Predictions come from the family's own inferencer; if the config is an integer one, the inferencer's
model computes in integers, rounded to nearest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from PIL import Image

import mmint  # noqa: F401  configs may inherit mmint::_base_/int8.py
from mmint.conversion import convert


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='+', help='image files')
    parser.add_argument('--out', required=True, type=Path, help='write the picture here')
    parser.add_argument('--height', type=int, default=240, help='of each image in the picture')
    return parser.parse_args()


def build_inferencer(cfg: Config, checkpoint: str) -> BaseInferencer:
    """mmdet's `DetInferencer` or mmseg's `MMSegInferencer` with the checkpoint, in integers if the
    config says so.
    """
    if cfg.default_scope == 'mmdet':
        from mmdet.apis import DetInferencer as Inferencer
    elif cfg.default_scope == 'mmseg':
        from mmseg.apis import MMSegInferencer as Inferencer
    else:
        raise SystemExit(
            f'a config of scope {cfg.default_scope!r} was given, mmdet and mmseg are accepted'
        )
    inferencer = Inferencer(cfg, checkpoint)
    hooks = [dict(hook) for hook in cfg.get('custom_hooks') or []]
    settings = [hook for hook in hooks if hook.pop('type') == 'IntTrainingHook']
    if 'integer' in cfg:
        settings.append(cfg.integer)
    for its in settings:
        convert(inferencer.model, **its)
    return inferencer


def main() -> None:
    """Predicts, draws and writes."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    inferencer = build_inferencer(cfg, args.checkpoint)
    style = dict(opacity=0.6, with_labels=False) if cfg.default_scope == 'mmseg' else {}
    drawn = inferencer(args.images, return_vis=True, **style)['visualization']
    drawn = [drawn] if isinstance(drawn, np.ndarray) else drawn  # as mmseg gives a single one
    pictures = [Image.fromarray(picture) for picture in drawn]
    scaled = [p.resize((round(p.width * args.height / p.height), args.height)) for p in pictures]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.hstack(scaled)).save(args.out)


if __name__ == '__main__':
    main()
