"""Tensors whose elements exist only where somebody reads them.

A norm ends a layer with ``p * X + r`` of mantissas X that it keeps anyway. Written as float32, that
is four bytes an element to write and as many to read, for the next layer to make mantissas of. So
inside of converted modules it is handed on as a `Deferred`, a float32 tensor in name: shape, dtype,
autograd, hooks. Who knows it (`source_of`) makes the elements in registers; ReLU waits with it. So
do the gradients of both (`waiting`).

Whoever does not know it finds ordinary float32. Any operation of PyTorch on it, and any way to its
memory from Python, first writes the elements, once: from then on it is a name for a plain tensor,
which views share, and in which operations in place are seen by all. C++ that reads its address past
PyTorch's dispatcher is told by PyTorch that there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import tree_map_only

from ..backends import backend_for
from ..backends.magnitudes import known_magnitude, remember_magnitude
from ..backends.notes import note, noted
from ..backends.source import Source, Unwritten

VARIABLE = 'MMINT_DEFER'
wish = os.environ.get(VARIABLE)  # read once, as that for a backend


def deferring() -> bool:
    """Whether elements may wait: unless ``MMINT_DEFER`` was 0 when mmint was imported."""
    return wish != '0'


class _Content:
    """What aliases share: a source, until a plain tensor takes its place."""

    def __init__(self, source: Unwritten) -> None:
        self.source: Unwritten | None = source
        self.plain: Tensor | None = None


class Deferred(Tensor):
    """A float32 tensor (N, C, H, W) of a source, or, once it has been written, of memory."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    _content: _Content

    @staticmethod
    def __new__(cls: type[Deferred], content: _Content, like: Tensor | Unwritten) -> Deferred:
        """A name for ``content``, of the shape and on the device of ``like``."""
        made = Tensor._make_wrapper_subclass(
            cls, like.shape, dtype=torch.float32, device=like.device
        )
        torch._C._set_throw_on_mutable_data_ptr(made)
        made._content = content
        return made

    @property
    def source(self) -> Unwritten | None:
        """What the elements are a function of, None once they have been written."""
        return self._content.source

    def replace(self, content: Source | Tensor) -> Deferred:
        """Changes the elements in place, under all names, before they have been written."""
        if isinstance(content, Source):
            self._content.source = content
        else:
            self._content.source, self._content.plain = None, content
            self._note_magnitude()
        return self

    def alias(self) -> Deferred:
        """Another name for the same elements, without their history."""
        return Deferred(self._content, self)

    def materialise(self) -> Tensor:
        """The plain tensor, written now unless it has been before, without its history."""
        content, source = self._content, self.source
        if source is not None:
            content.plain = backend_for(self.device).elements(source)
            content.source = None
            self._note_magnitude()
        assert content.plain is not None
        return content.plain

    def _note_magnitude(self) -> None:
        """Notes what the kernel noted that wrote the elements just now."""
        assert self._content.plain is not None
        magnitude = known_magnitude(self._content.plain)
        if magnitude is not None:
            remember_magnitude(self, magnitude)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # a class method, as PyTorch calls it
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Any operation of PyTorch: it gets plain tensors; what it changes keeps its name."""
        names: dict[int, Deferred] = {}

        def written(x: Deferred) -> Tensor:
            plain = x.materialise()
            names[id(plain)] = x
            return plain

        args, kwargs = tree_map_only(Deferred, written, (args, kwargs or {}))
        out = func(*args, **kwargs)
        return tree_map_only(Tensor, lambda x: names.get(id(x), x), out)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A plain copy; of what has a history, PyTorch's error."""
        return Tensor.__deepcopy__(_plain_leaf(self) if self.is_leaf else self, memo)


def _plain_leaf(x: Deferred) -> Tensor:
    return x.materialise().detach().requires_grad_(x.requires_grad)


def _of_plain(name: str) -> Callable[..., Any]:
    method = getattr(Tensor, name)

    def of_plain(self: Deferred, *args: Any, **kwargs: Any) -> Any:
        return method(_plain_leaf(self), *args, **kwargs)

    return of_plain


for _name in (
    *('data_ptr', 'numpy', 'tolist', 'storage', 'untyped_storage'),
    *('__dlpack__', '__reduce_ex__'),
):
    setattr(Deferred, _name, _of_plain(_name))


def deferred(source: Unwritten) -> Tensor:
    """A tensor of the elements of ``source``."""
    return Deferred(_Content(source), source)


def is_source(x: Any) -> bool:
    """Whether ``x`` is a tensor whose elements nobody has written."""
    return isinstance(x, Deferred) and x.source is not None


def source_of(x: Tensor) -> Tensor | Unwritten:
    """What a kernel reads for ``x``: what makes its elements, or ``x`` where they are written."""
    source = x.source if isinstance(x, Deferred) else None
    return x if source is None else source


def written(x: Tensor) -> Tensor:
    """``x``, whose elements lie in memory from now on, for kernels that read them there."""
    if isinstance(x, Deferred):
        x.materialise()
    return x


def alias_of(x: Tensor) -> Tensor:
    """``x.data``, deferred as ``x`` is."""
    return x.alias() if isinstance(x, Deferred) else x.data


def plain(tree: Any) -> Any:
    """``tree``, in which each deferred tensor has become a plain one, with its history."""
    return tree_map_only(Deferred, _plain_of, tree)


def _plain_of(x: Deferred) -> Tensor:
    made = _Plain.apply(x)
    note(made, 'forks', noted(x, 'forks'))  # whose uses are uses of x: see `fork`
    return made


class _Plain(Function):
    @staticmethod
    def forward(ctx: Any, x: Deferred) -> Tensor:
        magnitude = known_magnitude(x)
        made = x.materialise().detach()
        if magnitude is not None:
            remember_magnitude(made, magnitude)
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad
