"""Running statistics of batch norm."""

from __future__ import annotations

from torch import Tensor

from ....numerics import FixedPoint, scalar
from ....numerics.wide import add, divide, from_float, from_integers, multiply, narrow, to_float
from ...host.checks import checked_count
from .statistics import exponents_by_group, scatter


def update_running(
    mean: Tensor, var: Tensor, x: FixedPoint, sums: Tensor, count: int, momentum: float
) -> None:
    """As `Backend.update_running`.

    The batch's variance is ``V / (n * (n - 1))``.
    """
    exponent, device = exponents_by_group(x, mean.shape), sums.device
    divisors = from_integers([checked_count(count, 2), count * (count - 1)], device)
    batch_mean = divide(narrow(sums[0], 0), divisors[0]).shifted(exponent)
    batch_var = divide(scatter(sums, count), divisors[1]).shifted(2 * exponent)
    mantissa, power = scalar(momentum)
    factor = from_integers([mantissa], device).shifted(power)
    for running, batch in ((mean, batch_mean), (var, batch_var)):
        old = from_float(running)
        running.copy_(to_float(add(old, multiply(factor, add(batch, -old)))))
