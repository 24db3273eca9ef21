"""What a backend is: every integer operation, by name, shapes, types and errors.

A backend is a module. `mmint.backends.reference` defines the bits of each operation; the others
compute the same bits, faster. Fixed-point tensors and float32 results are on the device of the
arguments. ``random`` names the random bits of a rounding, None rounds to nearest, ties to even.

Where a value is infinite or not a number, an operation raises `NonFiniteError`: at once on a CPU;
on a GPU, where nothing waits for the device, it goes on with zeros and `Backend.check` raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..numerics import FixedPoint, RandomBits
from .activation import Activations
from .geometry import Geometry, Pooling, Windows
from .interpolation import Interpolation
from .mapping import Mapping
from .running import Running
from .source import Sources, Unwritten
from .update import Update


class Backend(Activations, Interpolation, Sources, Protocol):
    """The integer operations on one kind of device.

    Attributes:
        name: as `MMINT_BACKEND` and people call it.
        planes_last: whether what reads planes reads channels-last mantissas fastest.
    """

    name: str
    planes_last: bool

    @property
    def quantize_all(self) -> Callable[[Sequence[Mapping]], list[FixedPoint]] | None:
        """`quantize` of several tensors with elements; None where one by one is as fast."""

    # ---- mapping ----

    def quantize(
        self,
        x: Tensor | Unwritten,
        bits: int,
        random: RandomBits | None,
        largest: int | Tensor | None = None,
        exponents: tuple[int, ...] = (),
    ) -> FixedPoint:
        """Linear mapping of a float32 tensor of any shape to fixed point.

        Args:
            x: float32, or what makes its elements, where no exponents differ within a plane.
            bits: width of a mantissa, 4..16.
            largest: bit patterns of magnitudes that none exceeds of those that share an exponent,
                here and elsewhere: an int, or an int32 tensor of one for each exponent; the
                largest magnitudes of ``x`` unless given.
            exponents: the shape of the exponents (`FixedPoint.exponent`), () for one: ones, then as
                many as the tensor's size, then at most one axis of fewer, then ones.

        Raises:
            NonFiniteError: if an element is infinite or not a number.
        """

    def dequantize(self, mantissa: Tensor, exponent: Tensor | int) -> Tensor:
        """Non-linear inverse mapping: the float32 nearest to ``mantissa * 2**exponent``.

        Overflow gives infinity, which the next mapping reports.

        Args:
            mantissa: any integer dtype, any shape, magnitudes below 2**62.
            exponent: the exponent that the mantissas share.
        """

    def check(self, device: torch.device) -> None:
        """Raises what calls on ``device`` have not raised yet; called once an iteration.

        Raises:
            NonFiniteError: if a call since the last check met an infinity or NaN.
        """

    # ---- products ----

    def conv2d(
        self,
        x: FixedPoint,
        weight: FixedPoint,
        geometry: Geometry,
        bias: Tensor | None = None,
        random: RandomBits | None = None,
    ) -> Tensor:
        """Convolution of ``x`` (N, C, H, W) with ``weight`` (O, C / groups, kH, kW) as float32.

        Here and in the gradients, operands have one exponent or one a group: images (1, groups, 1,
        1), ``weight`` (groups, 1, 1, 1). Where there is one group, ``weight`` may have one for each
        channel of the result: (O, 1, 1, 1), in the input gradient (1, C, 1, 1).

        ``bias``, float32 (O,), is rounded to an integer with ``random`` and added to the sums.

        Raises:
            NonFiniteError: if an element of ``bias`` is infinite or not a number.
        """

    def conv2d_input_grad(
        self,
        grad: FixedPoint,
        weight: FixedPoint,
        input_size: tuple[int, int, int, int],
        geometry: Geometry,
        bias: Tensor | None = None,
        random: RandomBits | None = None,
    ) -> Tensor:
        """Gradient of `conv2d` for its input, of shape ``input_size``, as float32.

        It is also the forward pass of a transposed convolution, for which ``bias`` (C,) is there.
        """

    def conv2d_weight_grad(
        self,
        grad: FixedPoint,
        x: FixedPoint,
        weight_size: tuple[int, int, int, int],
        geometry: Geometry,
    ) -> Tensor:
        """Gradient of `conv2d` for its weight, of shape ``weight_size``, as float32."""

    def matmul(
        self,
        a: FixedPoint,
        b: FixedPoint,
        bias: Tensor | None = None,
        random: RandomBits | None = None,
    ) -> Tensor:
        """Product of ``a`` (..., M, K) and ``b`` (..., K, N) as float32 (..., M, N).

        Both have the same leading dimensions; ``bias`` (N,) is as in `conv2d`. They have one
        exponent, or without bias one a matrix (..., 1, 1); ``b`` (K, N) may have one a column.

        Raises:
            ValueError: if the shapes do not go together.
            NonFiniteError: if an element of ``bias`` is infinite or not a number.
        """

    def channel_sum(self, grad: FixedPoint, channel_dim: int) -> Tensor:
        """The bias gradient: the sum of ``grad`` over all dimensions but one, float32.

        ``grad`` has one exponent, or several along that dimension."""

    # ---- addition ----

    def add(
        self,
        x: Tensor | Unwritten,
        y: Tensor | Unwritten,
        bits: int,
        random: RandomBits | None,
        exponents: tuple[int, ...] = (),
        inplace: bool = False,
    ) -> Tensor:
        """The sum of float32 ``x`` and ``y``, of one shape, each mapped to ``bits`` bits.

        Args:
            x, y: float32, or what makes their elements, whole planes of which share an exponent.
            exponents: their shape, () for one: the sizes of the first axes, then ones.
            inplace: whether the sum replaces ``x``, which lies in memory.

        Raises:
            ValueError: if they are not of one shape and float32.
            NonFiniteError: if an element is infinite or not a number.
        """

    # ---- norms ----

    def plane_sums(self, x: FixedPoint, joined: bool = False) -> Tensor:
        """Sums of ``x`` (N, C, ...) and of its squares over each plane: int64 (2, N, C), exact.

        Args:
            joined: whether planes of all images are one, the sums (2, C).
        """

    def plane_products(self, grad: FixedPoint, x: FixedPoint, joined: bool = False) -> Tensor:
        """Sums of ``grad`` and of ``grad * x`` over each plane, as `plane_sums`."""

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
        """Batch norm of ``x`` (N, C, ...) with the statistics of the batch, as float32.

        ``x``, and in the other operations of batch norm ``grad``, has one exponent or one a
        channel.

        Args:
            sums: int64 (2, C): `plane_sums` of all images, summed over processes.
            count: how many elements of a channel were summed.
            weight, bias: float32 (C,), or None for 1 and 0.
            running: updated as by `update_running`, and its batch counted.

        Raises:
            NonFiniteError: if a parameter or statistic is infinite or not a number.
        """

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
        """Gradients of `batch_norm` for input, weight and bias, as float32.

        Args:
            products: int64 (2, C): `plane_products` of all images, summed over processes.
            own: those of this process alone, which weight and bias get; ``products`` unless given.
        """

    def update_running(
        self,
        mean: Tensor,
        var: Tensor,
        x: FixedPoint,
        sums: Tensor,
        count: int,
        momentum: float,
    ) -> None:
        """Moves float32 ``mean`` and ``var`` (C,) towards the batch's, in place, to nearest.

        ``new = old + momentum * (batch - old)``, with ``momentum`` as a scalar of 16 bits; the
        variance is the unbiased one. What is not finite stays as it is.

        Args:
            x: what was summed; only its exponent counts.
            count: at least 2.

        Raises:
            NonFiniteError: if ``mean`` or ``var`` is infinite or not a number.
        """

    def frozen_norm(
        self,
        x: FixedPoint,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        """Batch norm of ``x`` (N, C, ...) with float32 ``mean`` and ``var`` (C,), as float32.

        Raises:
            NonFiniteError: if a parameter or statistic is infinite or not a number, or
                ``var + eps`` not positive.
        """

    def frozen_norm_grad(
        self, grad: FixedPoint, var: Tensor, weight: Tensor | None, eps: float
    ) -> Tensor:
        """Gradient of `frozen_norm` for its input, of the shape of ``grad``, as float32."""

    def frozen_norm_weight_grad(
        self,
        grad: FixedPoint,
        x: FixedPoint,
        products: Tensor,
        mean: Tensor,
        var: Tensor,
        eps: float,
    ) -> Tensor:
        """Gradient of `frozen_norm` for its weight, float32 (C,); the bias has `channel_sum`.

        Args:
            grad, x: what was summed; only their exponents count.
            products: int64 (2, C): `plane_products` of all images.
        """

    def group_norm(
        self,
        x: FixedPoint,
        sums: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        """Group norm of ``x`` (N, C, ...) as float32.

        ``x``, and in `group_norm_grad` ``grad``, has one exponent or (N, groups, 1, ...).

        Args:
            sums: int64 (2, N, groups): `plane_sums` summed over the channels of each group.
            weight, bias: float32 (C,), or None for 1 and 0.

        Raises:
            NonFiniteError: if ``weight`` or ``bias`` is infinite or not a number.
        """

    def group_norm_grad(
        self,
        grad: FixedPoint,
        x: FixedPoint,
        sums: Tensor,
        products: Tensor,
        weight: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of `group_norm` for input, weight and bias, as float32.

        Args:
            products: int64 (2, N, C): `plane_products`.
        """

    def layer_norm(
        self, x: FixedPoint, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Layer norm of the rows of ``x`` (R, D) as float32, and their sums, int64 (2, R).

        ``x`` has one exponent or one a row.

        Args:
            weight, bias: float32 (D,), or None for 1 and 0.

        Raises:
            NonFiniteError: if ``weight`` or ``bias`` is infinite or not a number.
        """

    def layer_norm_grad(
        self,
        grad: FixedPoint,
        x: FixedPoint,
        sums: Tensor,
        weight: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of `layer_norm` for input (R, D), weight and bias (D,), as float32.

        ``grad`` has one exponent, since the parameters' gradients are sums over rows.
        """

    # ---- pooling ----

    def max_pool2d(self, x: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
        """Max pooling of float32 ``x`` (N, C, H, W), and where in its window each maximum lies.

        The place is ``row * kernel width + column`` as uint8; of equal elements the first counts.
        """

    def max_pool2d_grad(
        self,
        grad: Tensor,
        place: Tensor,
        input_size: tuple[int, int, int, int],
        pooling: Pooling,
    ) -> Tensor:
        """Gradient of `max_pool2d` for its input; overlapping windows add in row-major order."""

    def avg_pool2d(self, x: FixedPoint, windows: Windows) -> Tensor:
        """Means of ``x`` (N, C, H, W) over ``windows`` as float32 (N, C, rows, columns)."""

    def avg_pool2d_grad(
        self, grad: FixedPoint, input_size: tuple[int, int, int, int], windows: Windows
    ) -> Tensor:
        """Gradient of `avg_pool2d` for its input, of shape ``input_size``, as float32.

        An element's sum over the windows that hold it is exact for up to 2**(23 - bits) windows.
        """

    # ---- optimizer ----

    def sgd_step(self, updates: Sequence[Update]) -> list[FixedPoint | None]:
        """Updates parameters in place, and returns their momenta: where there was one, that.

        It is None where the momentum factor is 0. Nothing is updated that is not finite.

        Raises:
            NonFiniteError: if an element of a parameter or a gradient is infinite or not a number:
                that of the update; no parameter is updated, or on a GPU only others.
        """


OPERATIONS = frozenset(n for n in dir(Backend) if n[0] != '_' and callable(getattr(Backend, n)))
