"""Differences of two methods on the same questions of a task, paired question by question."""

import math
from dataclasses import dataclass

import numpy as np

from lexp.statistics.clustered import LEVEL
from lexp.statistics.seeds import around, two_sided


@dataclass(frozen=True)
class PairedMean:
    """A mean difference, its interval, and p of the paired t-test; NaN for one question alone."""

    value: float
    low: float
    high: float
    p: float


def paired_mean(
    a: np.ndarray, b: np.ndarray, sizes: np.ndarray, level: float = LEVEL
) -> PairedMean:
    """Return the sum of a - b over the sum of sizes, all float [n], n at least 1.

    The standard error is that of a mean of differences; with unequal sizes it is linearised. There
    are hundreds of independent questions, so Student's interval holds and nothing is drawn.
    """
    differences, n = a - b, len(sizes)
    value = float(differences.sum() / sizes.sum())
    if n < 2 or not math.isfinite(value):
        return PairedMean(value, math.nan, math.nan, math.nan)
    squares = float(((differences - value * sizes) ** 2).sum())
    error = math.sqrt(squares * n / (n - 1)) / float(sizes.sum())
    interval = around(value, error, n - 1, level)
    return PairedMean(value, interval.low, interval.high, two_sided(value, error, n - 1))
