"""Reports which arithmetic of a training step is integer, and which float arithmetic remains.

The config is trained as `IntRunner` would train it, for two steps on random images; the second,
whose optimizer has its state, is audited. `mmint.analysis.report` describes the JSON, which also
has the config's name, the number and size of the images, the optimizer and the backend.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmengine.config import DictAction
from synthetic_step import Step, load_config

from mmint.analysis import Recorder
from mmint.backends import backend_for
from mmint.openmmlab.engine.runner import to_integer

IMAGES = 2


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='a file, or package::path')
    parser.add_argument('--json', metavar='FILE', help='write the report here')
    parser.add_argument(
        '--size', type=int, nargs=2, help="height and width (default: 320 320, or mmpretrain's own)"
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='settings to override, as key=value'
    )
    return parser.parse_args()


def main() -> None:
    """Audits one step."""
    args = parse_args()
    cfg = load_config(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    step = Step(to_integer(cfg), IMAGES, args.size and tuple(args.size))
    step()
    with Recorder(step.model) as recorder:
        step()
    settings = dict(
        config=args.config,
        images=IMAGES,
        size=step.size,
        optimizer=type(step.optim_wrapper.optimizer).__name__,
        backend=backend_for(next(step.model.parameters()).device).name,
    )
    print('{config}: {images} images of {size[0]} x {size[1]}, {optimizer}'.format(**settings))
    print(f'\n{recorder.report.to_text()}')
    if args.json:
        result = {**settings, **recorder.report.to_json()}
        Path(args.json).write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
