"""Where an operation runs, and why it is there.

Forward, the Python frames tell: the innermost module is where, and a name on the way out to that
module's ``forward`` (a loss, a box coder, an assigner) says why. Backward there are no frames, but
PyTorch numbers autograd nodes as forward operations make them, so `Origins` knows which forward
operation a node belongs to.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .float_operations import kind_of, name_of

ENGINE = '_engine_run_backward'  # PyTorch's function around a backward pass

# By folder, file and function of a frame; the innermost frame that matches counts.
PLACES = (
    (r'data_preprocessor', 'image normalisation'),
    (r'assigners/|samplers/|overlaps|_iou', 'target assignment'),
    (r'coders/|bbox/', 'box coding'),
    (r'prior_generators/', 'anchors'),
    (r'roi_extractors/', 'RoI sampling'),
    (r'drop_path|:dropout', 'dropout'),
    (r'loss|cross_entropy|accuracy', 'loss'),
    (r'predict|nms', 'proposals'),
    (r'clip_grad', 'gradient clipping'),
)
OUTSIDE = ('target assignment', 'loss')  # places that are no part of the network
# By operator, wherever it is used; those of gradients contain the names of the forward ones.
OPERATORS = (
    (r'upsample|grid_sampler', 'interpolation'),
    (r'^roi_', 'RoI sampling'),
    (r'avg_pool', 'average pooling'),
    (r'max_pool', 'max pooling, overlapping windows'),
)
_KINDS = {
    'interpolation': 'interpolation',
    'RoI sampling': 'interpolation',
    'average pooling': 'pooling',
    'max pooling, overlapping windows': 'pooling',
}
# By operator, unless its place says more.
FUNCTIONS = (
    (r'loss', 'loss'),
    (r'softmax|logsumexp', 'softmax'),
    (r'dropout', 'dropout'),
    (
        r'^(gelu|silu|sigmoid|log_sigmoid|hardswish|hardsigmoid|tanh|mish|elu|leaky_relu|prelu'
        r'|softplus|glu|erf)(_kernel)?(_backward)?$',
        'activation function',
    ),
)
GATHERED = re.compile(r'index_put|scatter_add|index_add|embedding_dense_backward')


class Why(NamedTuple):
    """The reason of an operation, and the kind that its multiply-adds count as, if any."""

    reason: str | None  # None: it is exact
    kind: str | None = None


class Place(NamedTuple):
    """The name of the module where an operation runs, and a reason if the place itself is one."""

    module: str
    reason: str | None = None


class Origins:
    """The forward operations that made the nodes of the autograd graph."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._origins: list[tuple[Place, Why]] = []

    def add(self, place: Place, why: Why) -> None:
        """Remembers the operation that runs now; a node's own is the first after its creation."""
        following = torch._C._autograd._get_sequence_nr()
        if not self._numbers or following > self._numbers[-1]:
            self._numbers.append(following)
            self._origins.append((place, why))

    def of_current_node(self) -> tuple[Place, Why]:
        """The origin of the node that the autograd engine evaluates now."""
        node = torch._C._current_autograd_node()
        if node is not None:
            index = bisect.bisect_left(self._numbers, node._sequence_nr() + 1)
            if index < len(self._origins):
                return self._origins[index]
        return Place(''), Why(None)


def place_of(
    frame: FrameType | None, names: Mapping[nn.Module, str], in_engine: bool
) -> Place | None:
    """Where the code of ``frame`` runs, or None if the autograd engine called it, no module.

    Args:
        names: the modules of the model, and their names.
        in_engine: whether a backward pass is under way.
    """
    module = reason = None
    while frame is not None and frame.f_code.co_name != ENGINE:
        code = frame.f_code
        reason = reason or _reason_of_code(code.co_filename, code.co_name)
        owner = frame.f_locals.get('self') if code.co_varnames[:1] == ('self',) else None
        if isinstance(owner, Optimizer) and module is None:
            return Place('', 'optimizer')
        if isinstance(owner, nn.Module) and module is None and owner in names:
            module = names[owner]
            reason = reason or ('norm' if 'Norm' in type(owner).__name__ else None)
        if module is not None and code.co_name == 'forward':
            break
        frame = frame.f_back
    return None if in_engine and module is None else Place(module or '', reason)


def counts(kind: str | None, place: Place) -> bool:
    """Whether operations of a kind are the network's at a place.

    Products and means in losses, matchers and assigners are not. Convolutions are: heads apply
    predicted kernels where they compute their loss.
    """
    return kind == 'convolution' or place.reason not in OUTSIDE


def explain(operator: Any, args: Sequence[Any], place: Place, origin: Why | None) -> Why:
    """Why a float operation is there, and its kind.

    Args:
        origin: of the forward operation, where this one belongs to its gradient.
    """
    name = name_of(operator)
    kind = kind_of(operator)
    if place.reason == 'optimizer':
        return Why('optimizer', 'optimizer')
    if not counts(kind, place):
        return Why(reason_of_operator(name) or place.reason)
    if kind:
        return Why(kind, kind)
    reason = reason_of_operator(name)
    if reason or _is_pooling(name, args):
        reason = reason or 'average pooling'
        return Why(reason, None if place.reason == 'loss' else _KINDS.get(reason))
    adds = name == 'add' and _has_two_tensors(args)
    if adds and origin is not None and place.reason in (None, 'norm'):
        return Why('gradient accumulation', 'addition')
    reason = place.reason or _first_match(FUNCTIONS, name)
    if reason:
        return Why(reason, 'norm' if reason == 'norm' else None)
    if origin is not None:
        if GATHERED.search(name):
            return Why('gradient of indexing')
        if origin.reason:
            return origin
        if name == 'sum':
            return Why('gradient of a broadcast')
    if adds:
        return Why('addition', 'addition')
    if name in ('mul', 'div'):
        return Why('element-wise product')
    return Why('other')


def reason_of_operator(name: str) -> str | None:
    """The reason of an operator that is there for one reason wherever it is used."""
    return _first_match(OPERATORS, name)


@functools.cache
def _reason_of_code(path: str, function: str) -> str | None:
    return _first_match(PLACES, f'{"/".join(PurePath(path).parts[-2:])}:{function}')


def _first_match(table: Sequence[tuple[str, str]], text: str) -> str | None:
    return next((reason for pattern, reason in table if re.search(pattern, text)), None)


def _is_pooling(name: str, args: Sequence[Any]) -> bool:
    """Whether this is the mean of the pixels of images (N, C, H, W), or of tokens (N, L, C)."""
    if name != 'mean' or len(args) < 2 or not args[1]:
        return False
    x, dims, keeps = args[0], args[1], len(args) > 2 and args[2]
    if x.dim() == 3:
        return not keeps and [dim % 3 for dim in dims] == [1]
    return x.dim() == 4 and {dim % 4 for dim in dims} <= {2, 3}


def _has_two_tensors(args: Sequence[Any]) -> bool:
    return all(isinstance(arg, Tensor) and arg.numel() > 1 for arg in args[:2])
