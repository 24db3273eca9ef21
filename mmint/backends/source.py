"""What float32 elements are a function of, where nobody has written them to memory."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..numerics import FixedPoint
from .running import Running


class Source(NamedTuple):
    """Elements ``p * X + q * Y + r`` at their plane's exponent, rounded to float32, then cut.

    Attributes:
        x: mantissas (N, C, ...), laid out as the backend's norms read them.
        coefficients: int64 (C, 4), or (N * C, 4): p, q, r and the exponent of a channel, or of a
            plane; made by an operation of the same backend.
        y: mantissas as those of ``x``, which are then a norm's incoming gradient, and ``y`` its
            input; None where q is 0.
        ceiling: None, or what `Backend.relu` cuts at: infinity is ReLU's, 6 that of ReLU6.
    """

    x: FixedPoint
    coefficients: Tensor
    y: FixedPoint | None = None
    ceiling: float | None = None

    @property
    def shape(self) -> torch.Size:
        """That of the elements."""
        return self.x.mantissa.shape

    @property
    def device(self) -> torch.device:
        """Where the mantissas are."""
        return self.x.mantissa.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the elements."""
        return torch.float32

    def reshape(self, size: tuple[int, ...]) -> Source:
        """The elements as images of another shape, (N, C, ...) as before."""
        x, y = (
            None if t is None else t._replace(mantissa=t.mantissa.reshape(size))
            for t in (self.x, self.y)
        )
        assert x is not None
        return self._replace(x=x, y=y)

    def numel(self) -> int:
        """How many elements there are."""
        return self.x.mantissa.numel()


class Masked(NamedTuple):
    """Elements of memory, 0 where ReLU let nothing pass: a gradient on its way through it.

    Attributes:
        x: float32 of any shape, contiguous or not.
        passed: bits of its elements in row-major order, as `Backend.relu` notes them.
    """

    x: Tensor
    passed: Tensor

    @property
    def shape(self) -> torch.Size:
        """That of the elements."""
        return self.x.shape

    @property
    def device(self) -> torch.device:
        """Where the elements are."""
        return self.x.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the elements."""
        return torch.float32

    def reshape(self, size: tuple[int, ...]) -> Masked:
        """The elements in another shape."""
        return self._replace(x=self.x.reshape(size))

    def numel(self) -> int:
        """How many elements there are."""
        return self.x.numel()


Unwritten = Source | Masked


class Sources(Protocol):
    """The operations of a backend that hand elements on unwritten, or write them.

    Mappings and additions read sources as they read float32 (`Backend.quantize`, `Backend.add`).
    """

    def batch_norm_source(
        self,
        x: FixedPoint,
        sums: Tensor,
        count: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        running: Running | None = None,
    ) -> Source:
        """What the elements of `Backend.batch_norm` are a function of; it updates ``running``."""

    def batch_norm_grad_source(
        self,
        grad: FixedPoint,
        x: FixedPoint,
        sums: Tensor,
        products: Tensor,
        count: int,
        weight: Tensor | None,
        eps: float,
        own: Tensor | None = None,
    ) -> tuple[Source, Tensor, Tensor]:
        """As `Backend.batch_norm_grad`, with what the input's gradient is a function of."""

    def frozen_norm_source(
        self,
        x: FixedPoint,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Source:
        """What the elements of `Backend.frozen_norm` are a function of."""

    def frozen_norm_grad_source(
        self, grad: FixedPoint, var: Tensor, weight: Tensor | None, eps: float
    ) -> Source:
        """What the elements of `Backend.frozen_norm_grad` are a function of."""

    def group_norm_source(
        self,
        x: FixedPoint,
        sums: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Source:
        """What the elements of `Backend.group_norm` are a function of."""

    def group_norm_grad_source(
        self,
        grad: FixedPoint,
        x: FixedPoint,
        sums: Tensor,
        products: Tensor,
        weight: Tensor | None,
        eps: float,
    ) -> tuple[Source, Tensor, Tensor]:
        """As `Backend.group_norm_grad`, with what the input's gradient is a function of."""

    def elements(self, source: Unwritten) -> Tensor:
        """The elements of ``source``, float32, contiguous."""
