"""Statistics of paired runs: the mean difference, its interval, and how many pairs would show it.

A pair is two runs of the same seed. Their differences are taken as draws from one normal
distribution, so that Student's t with one degree of freedom fewer than pairs applies.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats

CONFIDENCE = 0.95
POWER = 0.8
MOST_PAIRS = 1000


class Paired(NamedTuple):
    """Differences in brief.

    Attributes:
        pairs: how many.
        mean: of the differences.
        spread: their standard deviation, None of a single one.
        low, high: the 95 % confidence interval of the mean, None of a single one.
    """

    pairs: int
    mean: float
    spread: float | None = None
    low: float | None = None
    high: float | None = None


def paired(differences: Sequence[float]) -> Paired:
    """The differences in brief; at least one is needed."""
    pairs, mean = len(differences), statistics.fmean(differences)
    if pairs == 1:
        return Paired(1, mean)
    spread = statistics.stdev(differences)
    half = _quantile(pairs) * spread / math.sqrt(pairs)
    return Paired(pairs, mean, spread, mean - half, mean + half)


def power(difference: float, spread: float, pairs: int) -> float:
    """How probable it is that so many pairs show a true ``difference``.

    That is: zero lies outside their interval, on the right side. ``spread`` is the standard
    deviation of the differences. The statistic then has a noncentral t distribution.
    """
    if spread == 0:
        return float(difference != 0)
    shift, edge = abs(difference) / spread * math.sqrt(pairs), _quantile(pairs)
    return float(stats.nct.sf(edge, pairs - 1, shift))


def pairs_for(difference: float, spread: float) -> int | None:
    """How many pairs show a true ``difference`` four times in five, None if more than 1,000."""
    low, high = 1, 2  # power grows with the pairs
    while power(difference, spread, high) < POWER:
        if high >= MOST_PAIRS:
            return None
        low, high = high, min(2 * high, MOST_PAIRS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, spread, middle) >= POWER else (middle, high)
    return high


def visible(spread: float, pairs: int) -> float:
    """The true difference that so many pairs show four times in five."""
    low, high = 0.0, spread
    while spread and power(high, spread, pairs) < POWER:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, spread, pairs) >= POWER else (middle, high)
    return high


def _quantile(pairs: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, pairs - 1))
