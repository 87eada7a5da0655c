"""Ranks: the correlation of two quantities by rank, and mean reciprocal ranks."""

import math
from collections.abc import Mapping, Sequence


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's rank correlation; pairs with a NaN are left out.

    NaN with fewer than three pairs, and if one of the quantities does not vary.
    """
    from scipy.stats import spearmanr  # half a second to import

    finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
    if len(finite) < 3 or any(len(set(side)) == 1 for side in zip(*finite, strict=True)):
        return math.nan
    return float(spearmanr(finite).statistic)


def mean_reciprocal_ranks(comparisons: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return by name the mean of 1 / rank over comparisons, in each of which the highest is first.

    Every comparison has the same names, and no NaN. Equal scores share the mean of the reciprocals
    of the places that they take together, which is what drawing lots among them gives on average.
    Kazemnejad et al. 2023 (arXiv 2305.19466, released notebook) let the order of rows decide.
    """
    names = set(comparisons[0]) if comparisons else set()
    if any(set(scores) != names for scores in comparisons):
        raise ValueError(f"each comparison must have {', '.join(sorted(names))}")
    shares: dict[str, list[float]] = {name: [] for name in comparisons[0]} if comparisons else {}
    for scores in comparisons:
        for name, score in scores.items():
            first = 1 + sum(other > score for other in scores.values())
            n_equal = sum(other == score for other in scores.values())
            shares[name].append(sum(1 / (first + n) for n in range(n_equal)) / n_equal)
    return {name: sum(own) / len(own) for name, own in shares.items()}
