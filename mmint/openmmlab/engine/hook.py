"""The hook that makes a model integer and keeps its random bits in step with the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, ApexOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner, activation_checkpointing
from torch import nn
from torch.optim import Optimizer
from torch.utils import checkpoint

from ...backends import backend_for
from ...backends.cpu.memory import keep_freed_memory
from ...conversion import DEFAULT_BITS, convert, format_report
from ...numerics import FREE
from ...ops.checkpoint import make_checkpoint_replay
from ...ops.run import begin_iteration, current_run
from ...optim import IntSGD
from .optim_wrapper import mixed_precision


@HOOKS.register_module()
class IntTrainingHook(Hook):
    """Converts the model of a run, and names the random bits of each iteration.

    Conversion comes after weights were initialised and loaded, just before the first loop, whether
    it trains, validates or tests: all before it meets the stock classes. The arguments are those
    of `mmint.convert`.
    """

    priority = 'VERY_HIGH'

    def __init__(
        self,
        bits: int = DEFAULT_BITS,
        include: Sequence[str] = ('*',),
        exclude: Sequence[str] = (),
        layer_bits: Mapping[str, int] | None = None,
        exponents: str = FREE,
    ) -> None:
        self.settings: dict[str, Any] = dict(
            bits=bits,
            include=include,
            exclude=exclude,
            layer_bits=layer_bits,
            exponents=exponents,
        )
        self._converted = False

    def before_run(self, runner: Runner) -> None:
        """Begins the random bits of the run, which checkpointing is to draw again."""
        self._converted = False
        keep_freed_memory()
        begin_iteration(0, _seed(runner), get_rank())
        for number, optimizer in enumerate(_optimizers(runner)):
            if isinstance(optimizer, IntSGD):
                optimizer.number = number  # whatever this process made before
        make_checkpoint_replay()
        activation_checkpointing.checkpoint = checkpoint.checkpoint  # where mmengine looks it up

    def before_train(self, runner: Runner) -> None:
        """Converts the model; takes the seed of a resumed checkpoint; names parameters.

        Raises:
            ValueError: if the run uses mixed precision.
        """
        if isinstance(runner.optim_wrapper, AmpOptimWrapper | ApexOptimWrapper):
            raise ValueError(mixed_precision(type(runner.optim_wrapper).__name__))
        current_run.seed = _seed(runner)
        model = _model(runner)
        checkpointed = _take_off_checkpointing(model, runner.cfg)
        self._convert(runner)
        activation_checkpointing.turn_on_activation_checkpointing(model, checkpointed)
        for optimizer in _optimizers(runner):
            if isinstance(optimizer, IntSGD):
                optimizer.name_parameters(model.named_parameters())
            else:
                print_log(
                    f'The optimizer {type(optimizer).__name__} updates the weights in float: '
                    'IntSGD is the integer optimizer there is',
                    logger='current',
                )

    def before_val(self, runner: Runner) -> None:
        """Converts the model, unless a training did."""
        self._convert(runner)

    before_test = before_val

    def _convert(self, runner: Runner) -> None:
        """Converts the model, once a run, and logs one table of what became of its layers."""
        if self._converted:
            return
        model = _model(runner)
        report = convert(model, **self.settings)
        self._converted = True
        backend = backend_for(next(model.parameters()).device)
        print_log(
            f'Integer layers, {backend.name} backend:\n{format_report(report)}', logger='current'
        )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Names the iteration that random bits and errors refer to."""
        current_run.begin_iteration(runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Reports what was not finite on a GPU, which is waited for once an iteration, here."""
        _check(runner)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """As `after_train_iter`."""
        _check(runner)

    after_test_iter = after_val_iter


def _model(runner: Runner) -> nn.Module:
    """The model itself, where the runner has wrapped it."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _take_off_checkpointing(model: nn.Module, cfg: Config) -> list[str]:
    """Undoes what ``activation_checkpointing`` of a config did, to layers that will be others.

    Returns:
        The names of the modules.
    """
    names = cfg.get('activation_checkpointing') or []
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        module = model.get_submodule(name)
        forward = module.__dict__.pop('forward').__wrapped__
        if forward != module.forward:
            module.forward = forward
    return names


def _seed(runner: Runner) -> int:
    """The seed of the run, the same in all its processes."""
    differs = runner._randomness_cfg.get('diff_rank_seed', False)
    return runner.seed - get_rank() if differs else runner.seed


def _optimizers(runner: Runner) -> list[Optimizer]:
    """The optimizers of the run, none where it only evaluates."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [each.optimizer for each in wrappers if isinstance(each, OptimWrapper)]


def _check(runner: Runner) -> None:
    device = next(runner.model.parameters()).device
    backend_for(device).check(device)
