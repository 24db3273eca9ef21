"""Batch, frozen and group norm by kernels that see groups of planes, whichever norm they are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...numerics import FixedPoint
from ..running import Running
from ..source import Source

LAYER_WEIGHT_BITS = 16
NORMALISED_BITS = 15  # magnitude of layer norm's normalised elements


@dataclass(frozen=True)
class Norms:
    """The norms over planes, by one backend's kernels.

    ``groups`` is how many groups the channels of an image make, 0 where each channel is one, in all
    images together; ``count`` is how many elements a group has.

    Attributes:
        norm: of (x, sums, groups, count, weight, bias, eps, running), not yet written.
        norm_grad: of (grad, x, sums, products, own, groups, count, weight, eps): the gradients for
            input, not yet written, and by ``own`` products, which are by image, weight and bias.
        frozen: of (x, mean, var, weight, bias, eps), not yet written.
        elements: as `Backend.elements`.
    """

    norm: Callable[
        [FixedPoint, Tensor, int, int, Tensor | None, Tensor | None, float, Running | None], Source
    ]
    norm_grad: Callable[
        [FixedPoint, FixedPoint, Tensor, Tensor, Tensor, int, int, Tensor | None, float],
        tuple[Source, Tensor, Tensor],
    ]
    frozen: Callable[
        [FixedPoint, Tensor | None, Tensor, Tensor | None, Tensor | None, float], Source
    ]
    elements: Callable[[Source], Tensor]

    def batch_norm(
        self,
        x: FixedPoint,
        sums: Tensor,
        count: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        running: Running | None = None,
    ) -> Tensor:
        """As `Backend.batch_norm`."""
        return self.elements(self.batch_norm_source(x, sums, count, weight, bias, eps, running))

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
        """As `Backend.batch_norm_source`."""
        return self.norm(x, sums, 0, count, weight, bias, eps, running)

    def batch_norm_grad(
        self,
        grad: FixedPoint,
        x: FixedPoint,
        sums: Tensor,
        products: Tensor,
        count: int,
        weight: Tensor | None,
        eps: float,
        own: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Backend.batch_norm_grad`."""
        made, dweight, dbias = self.batch_norm_grad_source(
            grad, x, sums, products, count, weight, eps, own
        )
        return self.elements(made), dweight, dbias

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
        """As `Backend.batch_norm_grad_source`."""
        own = (products if own is None else own)[:, None]
        return self.norm_grad(grad, x, sums, products, own, 0, count, weight, eps)

    def frozen_norm(
        self,
        x: FixedPoint,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        """As `Backend.frozen_norm`."""
        return self.elements(self.frozen(x, mean, var, weight, bias, eps))

    def frozen_norm_source(
        self,
        x: FixedPoint,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Source:
        """As `Backend.frozen_norm_source`."""
        return self.frozen(x, mean, var, weight, bias, eps)

    def frozen_norm_grad(
        self, grad: FixedPoint, var: Tensor, weight: Tensor | None, eps: float
    ) -> Tensor:
        """As `Backend.frozen_norm_grad`."""
        return self.elements(self.frozen_norm_grad_source(grad, var, weight, eps))

    def frozen_norm_grad_source(
        self, grad: FixedPoint, var: Tensor, weight: Tensor | None, eps: float
    ) -> Source:
        """As `Backend.frozen_norm_grad_source`."""
        return self.frozen(grad, None, var, weight, None, eps)

    def group_norm(
        self,
        x: FixedPoint,
        sums: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        """As `Backend.group_norm`."""
        return self.elements(self.group_norm_source(x, sums, weight, bias, eps))

    def group_norm_source(
        self,
        x: FixedPoint,
        sums: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Source:
        """As `Backend.group_norm_source`."""
        return self.norm(x, sums, sums.shape[2], group_size(x, sums), weight, bias, eps, None)

    def group_norm_grad(
        self,
        grad: FixedPoint,
        x: FixedPoint,
        sums: Tensor,
        products: Tensor,
        weight: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Backend.group_norm_grad`."""
        made, dweight, dbias = self.group_norm_grad_source(grad, x, sums, products, weight, eps)
        return self.elements(made), dweight, dbias

    def group_norm_grad_source(
        self,
        grad: FixedPoint,
        x: FixedPoint,
        sums: Tensor,
        products: Tensor,
        weight: Tensor | None,
        eps: float,
    ) -> tuple[Source, Tensor, Tensor]:
        """As `Backend.group_norm_grad_source`."""
        groups, count = sums.shape[2], group_size(x, sums)
        return self.norm_grad(grad, x, sums, products, products, groups, count, weight, eps)


def group_size(x: FixedPoint, sums: Tensor) -> int:
    """Elements in a group of ``x`` (N, C, ...), whose ``sums`` are (2, N, groups)."""
    return x.mantissa.shape[1:].numel() // sums.shape[2]
