"""Power analysis: the smallest difference that planned tokens and seeds can show.

A paired difference of token t of document g is taken as mu + a_g + e_gt: a_g of variance tau2
between documents, e_gt with the long-run variance sigma2 within one, that is, the variance of a
mean of T dependent tokens is sigma2 / T. A mean over G documents of T tokens then has variance
(tau2 + sigma2 / T) / G: more tokens of the same documents stop helping at tau2 / G.
"""

import math
from dataclasses import dataclass

import numpy as np

from lexp.statistics.clustered import LEVEL, per_document, why_no_number
from lexp.statistics.scored import TokenLosses

POWER = 0.8


@dataclass(frozen=True)
class Variances:
    """tau2 between documents and long-run sigma2 within, in nats^2; block: tokens averaged."""

    tau2: float
    sigma2: float
    block: int


def decompose(paired: TokenLosses, block: int | None = None) -> Variances:
    """Return the variances of a pilot's paired differences, from means of blocks of tokens.

    Neighbouring tokens are dependent, so sigma2 is block times the variance of block means around
    their document's mean. This sums over all lags, if a block is much longer than the dependence.
    block: by default the square root of the mean document's tokens. tau2 is the rest of the
    variance of the documents' means, at least zero.
    ValueError without two documents, two blocks in one of them, or finite losses.
    """
    if reason := why_no_number(paired.nats, paired.document):
        raise ValueError(f"a pilot's variances: {reason}")
    order = np.lexsort((paired.position, paired.document))
    nats = paired.nats[order].astype(np.float64)
    sums, sizes = per_document(nats, paired.document[order])
    if len(sums) < 2:
        raise ValueError("one document alone says nothing about other documents")
    block = block or max(1, round(math.sqrt(sizes.mean())))
    squares, freedom = 0.0, 0
    for document in np.split(nats, np.cumsum(sizes[:-1]).astype(int)):
        n_blocks = len(document) // block
        if n_blocks > 1:
            means = document[: n_blocks * block].reshape(n_blocks, block).mean(axis=1)
            squares += float(((means - means.mean()) ** 2).sum())
            freedom += n_blocks - 1
    if not freedom:
        raise ValueError(f"no document has two blocks of {block} tokens")
    sigma2 = block * squares / freedom
    tau2 = float(np.var(sums / sizes, ddof=1)) - sigma2 * float((1 / sizes).mean())
    return Variances(max(0.0, tau2), sigma2, block)


def smallest_difference(
    tau2: float,
    sigma2: float,
    n_documents: int,
    tokens_per_document: float,
    seed_variance: float = 0.0,
    n_seeds: int = 1,
    power: float = POWER,
    level: float = LEVEL,
) -> float:
    """Return the true difference in nats per token that a two-sided t-test finds with this power.

    seed_variance: between seeds of one variant; the difference of two variants of n_seeds
    independent seeds each adds 2 seed_variance / n_seeds (0: the claim is about these runs
    alone). More seeds do not reduce the documents' part, which is conservative.
    inf if seeds vary and there is one: no test separates the seed's luck from the variant.
    Degrees of freedom combine both parts, after Satterthwaite. ValueError below two
    documents, one token or one seed, or for a negative variance.
    """
    if n_documents < 2 or tokens_per_document < 1 or n_seeds < 1:
        raise ValueError(
            f"at least 2 documents, 1 token and 1 seed, not {n_documents}, "
            f"{tokens_per_document} and {n_seeds}"
        )
    if min(tau2, sigma2, seed_variance) < 0:
        raise ValueError("a variance is not negative")
    if not level < 1 or not 1 - level < power < 1:
        raise ValueError(f"power lies between {1 - level:.3g} and 1, not at {power}")
    of_documents = (tau2 + sigma2 / tokens_per_document) / n_documents
    of_seeds = 2 * seed_variance / n_seeds
    if of_seeds > 0 and n_seeds == 1:
        return math.inf
    variance = of_documents + of_seeds
    if variance == 0:
        return 0.0
    parts = of_documents**2 / (n_documents - 1)
    if of_seeds > 0:
        parts += of_seeds**2 / (2 * (n_seeds - 1))
    return math.sqrt(variance) * _noncentrality(variance**2 / parts, power, level)


def _noncentrality(freedom: float, power: float, level: float) -> float:
    """Return how many standard errors the true difference must lie from zero."""
    from scipy import optimize, stats  # half a second to import

    critical = float(stats.t.ppf((1 + level) / 2, freedom))

    def missing(far: float) -> float:
        other_side = float(stats.nct.cdf(-critical, freedom, far))
        # SciPy returns nan where the probability is below rounding.
        other_side = 0.0 if math.isnan(other_side) else other_side
        return float(stats.nct.sf(critical, freedom, far)) + other_side - power

    upper = critical
    while missing(upper) < 0:
        upper *= 2
    return float(optimize.brentq(missing, 1e-9, upper, xtol=1e-9))
