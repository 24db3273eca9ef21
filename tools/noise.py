"""Measures how much noise int8 adds to a config's gradients, beside what mini-batches have anyway.

One mini-batch is taken again and again with other random bits, in training mode and without steps;
what samples regions or drops neurons does the same each time. The noise is measured as the standard
deviation of the parameters' gradient, in units of the norm of float's gradient of that batch, and
beside it that of float's gradient over mini-batches. Then the roles of tensors are rounded alone,
with 15 bits for all others, and at last each layer alone, to see whose rounding the noise is.

OUT has noise.json, with all numbers, and noise.svg.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import random
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fixed_samples import FixedSamples
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, load_checkpoint, set_random_seed
from noise_report import Layer, Report, norm
from torch import nn

import mmint  # configs may inherit mmint::_base_/int8.py
from mmint.analysis import Isolation, Spread
from mmint.analysis.isolation import PARTS, Choice
from mmint.analysis.spread import Gradients
from mmint.conversion import convert
from mmint.layers import IntLayer
from mmint.numerics.fixed_point import MAX_BITS
from mmint.openmmlab.engine.runner import to_integer

SUGGESTED = 5  # layers, at most


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='an integer config, or a float one to see it in int8')
    parser.add_argument('checkpoint', nargs='?', help='weights; as initialized unless given')
    parser.add_argument('--draws', type=int, default=8, help='of the random bits')
    parser.add_argument('--batches', type=int, default=8, help='mini-batches')
    parser.add_argument('--out', type=Path, help='work_dirs/noise/CONFIG unless given')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='settings to override, as key=value'
    )
    args = parser.parse_args()
    if args.draws < 2 or args.batches < 2:
        parser.error(
            f'--draws {args.draws} and --batches {args.batches} were given, numbers from 2 are '
            'accepted: a single one has no variance'
        )
    args.out = args.out or Path('work_dirs') / 'noise' / Path(args.config).stem
    return args


def main() -> None:
    """Measures, writes and prints."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    MMLogger.get_current_instance().setLevel('ERROR')
    model, batches, settings = build(cfg, args.checkpoint, args.batches)
    report = measure(model, batches, settings, args.draws)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'noise.json').write_text(json.dumps(report.to_json(), indent=2) + '\n')
    report.draw(args.out / 'noise.svg')
    print(f'\n{report.to_text()}\n\nIn {args.out}: noise.json, noise.svg')


def build(cfg: Config, checkpoint: str | None, count: int) -> tuple[nn.Module, list[Any], dict]:
    """The float model of a config, mini-batches, and the settings of its conversion."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    hooks = [dict(hook) for hook in to_integer(cfg).custom_hooks]
    settings = next(hook for hook in hooks if hook.pop('type') == 'IntTrainingHook')
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    set_random_seed(0)  # augmentation draws from Python and NumPy too
    model = MODELS.build(cfg.model)
    if checkpoint:
        load_checkpoint(model, checkpoint, map_location='cpu')
    else:
        model.init_weights()
    loader = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
    batches: list[Any] = []
    for batch in Runner.build_dataloader(loader, seed=0):
        batches.append(batch)
        if len(batches) == count:
            break
    if len(batches) < 2:
        raise SystemExit(
            f'a data set of {len(batches)} mini-batch was given, at least 2 are needed to tell '
            'their noise: lower train_dataloader.batch_size'
        )
    model.to('cuda' if torch.cuda.is_available() else 'cpu')
    return model.train(), batches, settings


def measure(model: nn.Module, batches: list[Any], settings: dict, draws: int) -> Report:
    """Measures a float model of mmengine.

    Args:
        model: in training mode.
        batches: at least two mini-batches; the first is the one that is drawn again and again.
        settings: those of `mmint.convert`.
        draws: how often the bits of each role are drawn.
    """
    integer = copy.deepcopy(model)
    convert(integer, **settings)
    isolation = Isolation(integer)
    samples = FixedSamples()
    progress = Progress(len(batches) + (2 + len(PARTS)) * draws + 2 + len(isolation.places))

    with samples.recorded():
        loss, exact = step(model, batches[0])
    over_batches = Spread()
    for batch in batches:
        over_batches.add(step(model, batch)[1])
        progress()

    iterations = itertools.count()

    def drawn(times: int, choice: Choice | None = None) -> tuple[Spread, list[float]]:
        """Gradients and losses of the first batch; only ``choice`` is rounded, or all."""
        found, losses = Spread(), []
        for _ in range(times):
            mmint.begin_iteration(next(iterations))
            rounding = nullcontext() if choice is None else isolation.only(choice)
            with rounding, samples.replayed():
                its_loss, gradients = step(integer, batches[0])
            found.add(gradients)
            losses.append(its_loss)
            progress()
        return found, losses

    wide, _ = drawn(2, lambda name, part: False)
    places = [place.name for place in isolation.places.values() if place.name in isolation.rounding]
    progress.total += len(places) - len(isolation.places)
    whole, losses = drawn(draws)
    parts = {part: drawn(draws, lambda _, its, part=part: its == part)[0] for part in PARTS}
    sources = {
        name: distance(drawn(1, lambda its, _, name=name: its == name)[0].mean, wide.mean)
        for name in places
    }
    suggestion = suggest(sources, isolation)
    with isolation.widened(suggestion):
        mended, _ = drawn(draws)

    scale = norm(exact)
    layers: dict[str, list[str]] = {}
    for name in exact:
        layers.setdefault(name.rpartition('.')[0], []).append(name)
    return Report(
        loss=loss,
        losses=losses,
        whole=Layer.of('all', list(exact), exact, over_batches, whole, parts),
        layers=[
            Layer.of(layer, its, exact, over_batches, whole, parts)
            for layer, its in layers.items()
            if norm(exact, *its) > 0
        ],
        wide=math.sqrt(wide.variance()) / scale,
        sources={name: value / scale for name, value in sources.items()},
        settings={**settings, 'layer_bits': {**(settings.get('layer_bits') or {}), **suggestion}},
        mended=math.sqrt(mended.variance()) / scale,
        batches=len(batches),
        draws=draws,
    )


def step(model: nn.Module, batch: Any) -> tuple[float, Gradients]:
    """The loss of a mini-batch and its gradients; what is random but rounding is so in one way."""
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    model.zero_grad(set_to_none=True)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    loss, _ = model.parse_losses(model._run_forward(data, mode='loss'))
    loss.backward()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return loss.item(), {
        name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()
    }


def distance(one: Gradients, other: Gradients) -> float:
    """The norm of the difference."""
    return norm({name: one[name] - other[name] for name in one})


def suggest(sources: dict[str, float], isolation: Isolation) -> dict[str, int]:
    """The few layers whose rounding makes half of the noise, with 16 bits."""
    half = sum(value**2 for value in sources.values()) / 2
    layers = [
        place.name
        for place in isolation.places.values()
        if place.name in sources and isinstance(place.owner, IntLayer)
    ]
    chosen: dict[str, int] = {}
    for name in sorted(layers, key=lambda name: -sources[name])[:SUGGESTED]:
        if sum(sources[one] ** 2 for one in chosen) >= half:
            break
        chosen[name] = MAX_BITS
    return chosen


class Progress:
    """Shows how much is done and how long the rest will take.

    Args:
        total: how many steps there are to take.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.started = self.shown = time.monotonic()

    def __call__(self) -> None:
        """Notes a step."""
        self.done += 1
        now, terminal = time.monotonic(), sys.stdout.isatty()
        if now - self.shown >= (1 if terminal else 30):
            self.shown = now
            left = (now - self.started) / self.done * (self.total - self.done)
            text = f'step {self.done} of {self.total}, {left:.0f} s left'
            print(f'\r\x1b[K{text}' if terminal else text, end='' if terminal else '\n', flush=True)


if __name__ == '__main__':
    main()
