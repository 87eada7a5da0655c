"""Claims from per-token losses, with their uncertainty. Depends on arrays alone."""

from lexp.statistics.clustered import Estimate, mean, paired
from lexp.statistics.comparisons import Adjusted, SignFlips, holm, sign_flips
from lexp.statistics.curves import BETA, Bin, by_context, geometric_edges, key_tokens, last
from lexp.statistics.power import Variances, decompose, smallest_difference
from lexp.statistics.questions import PairedMean, paired_mean
from lexp.statistics.ranks import mean_reciprocal_ranks, rank_correlation
from lexp.statistics.reach import (
    BETTER,
    NOT_KNOWN,
    AgainstWindow,
    Reach,
    against_window,
    gain,
    reach,
)
from lexp.statistics.scored import TokenLosses, aligned, difference, same_tokens
from lexp.statistics.seeds import (
    AcrossSeeds,
    Difference,
    Interval,
    across,
    average,
    independent,
    paired_by_seed,
    t_interval,
)

__all__ = [
    "BETA",
    "BETTER",
    "NOT_KNOWN",
    "AcrossSeeds",
    "Adjusted",
    "AgainstWindow",
    "Bin",
    "Difference",
    "Estimate",
    "Interval",
    "PairedMean",
    "Reach",
    "SignFlips",
    "TokenLosses",
    "Variances",
    "across",
    "against_window",
    "aligned",
    "average",
    "by_context",
    "decompose",
    "difference",
    "gain",
    "geometric_edges",
    "holm",
    "independent",
    "key_tokens",
    "last",
    "mean",
    "mean_reciprocal_ranks",
    "paired",
    "paired_by_seed",
    "paired_mean",
    "rank_correlation",
    "reach",
    "same_tokens",
    "sign_flips",
    "smallest_difference",
    "t_interval",
]  # fmt: skip
