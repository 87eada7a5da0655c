"""Whether one quantity goes with another, by their ranks alone."""

import math
from collections.abc import Sequence

from scipy.stats import spearmanr


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's rank correlation; pairs with a NaN are left out, NaN with fewer than three.

    NaN also where one of the quantities does not vary.
    """
    known = [pair for pair in pairs if all(map(math.isfinite, pair))]
    if len(known) < 3 or any(len(set(side)) == 1 for side in zip(*known, strict=True)):
        return math.nan
    return float(spearmanr(known).statistic)
