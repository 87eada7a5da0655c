"""Rank correlation of two quantities."""

import math
from collections.abc import Sequence

from scipy.stats import spearmanr


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's rank correlation; pairs with a NaN are left out.

    NaN with fewer than three pairs, and if one of the quantities does not vary.
    """
    finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
    if len(finite) < 3 or any(len(set(side)) == 1 for side in zip(*finite, strict=True)):
        return math.nan
    return float(spearmanr(finite).statistic)
