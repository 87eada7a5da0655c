"""Means over tokens, with intervals clustered by document: its tokens are not independent.

The interval is the symmetric bootstrap-t: documents are drawn with replacement, every draw is
studentised by its own linearised standard error, and the 95 % quantile of |t| stands in the place
of Student's. The value is always total nats / total tokens, never a mean of means.

scripts/interval_coverage.py compares it with its rivals: how often, in per cent, a 95 % interval
holds the truth, by the number of documents G. 2000 repetitions, so +-1; documents differ with a
standard deviation of 0.3 nats, tokens with 3, skewed. Sizes are spread log-normally, by a factor
of 2.2 either way. Inflated: percentiles times sqrt(G / (G - 1)); cluster t: the linearised
error; equal tail: the asymmetric bootstrap-t.

    documents         G percentile   inflated        BCa  cluster t  jackknife equal tail  used here
    one size          5       83.7       87.0       83.9       94.6       94.6       94.8       97.4
                     10       90.5       91.8       90.2       94.3       94.3       94.5       95.5
                     20       92.1       93.2       92.1       95.1       95.1       94.7       95.3
                     50       93.7       94.0       94.0       94.8       94.8       94.5       94.8
    spread sizes      5       82.2       85.5       82.0       90.5       92.3       92.2       94.8
                     10       89.4       90.6       88.4       91.5       93.2       93.7       94.0
                     20       92.1       93.0       91.0       93.5       94.5       94.3       95.0
                     50       93.6       94.0       92.8       94.0       94.5       94.5       95.0
    longer is harder  5       79.1       83.0       78.3       89.6       91.3       91.1       93.3
                     10       85.7       87.8       85.7       90.6       92.5       92.3       93.2
                     20       89.2       90.0       89.6       91.5       92.8       93.2       93.7
                     50       91.7       92.1       90.5       92.8       93.5       93.5       94.3

Percentiles and BCa, the usual choices, are far too short at ten documents. The interval used here
is wider: 1.4 to 1.5 times the jackknife's at five documents, 1.1 times at ten, less above. Below
five documents, draws that consist of one document make the bootstrap-t infinite; the second best
method, the jackknife's t interval, is used instead: 92.5 to 95.4 % at two to four.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from lexp.statistics.scored import TokenLosses, check, difference

LEVEL = 0.95
DRAWS = 2000
# With fewer documents too many draws consist of one document, which has no standard error.
FEWEST_FOR_BOOTSTRAP = 5
BOOTSTRAP, JACKKNIFE = "bootstrap-t", "jackknife t"
# Numbers in one block of draws: 64 MB of float64.
BLOCK = 8_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean in nats per token and its interval, clustered by document.

    method: how the interval was made, "" if there is none. reason: why value or interval is not
    a finite number, "" if both are.
    """

    value: float
    low: float
    high: float
    n_documents: int
    level: float
    n_tokens: int = 0
    method: str = ""
    reason: str = ""


def mean(
    nats: np.ndarray,
    document: np.ndarray,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Return total nats / total tokens of losses float [n] in documents int [n].

    If a loss is not finite, the value is not either, and the reason says so. One document has no
    interval.
    ValueError if the arrays do not fit, or the level is not inside (0, 1).
    """
    check(nats, document)
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, not at {level}")
    sums, sizes = per_document(nats, document)
    n_documents, n_tokens = len(sums), len(nats)
    reason = why_no_number(nats, document)
    if reason or n_documents == 1:
        value = _total(sums) / n_tokens if n_tokens else math.nan
        reason = reason or "one document alone has no interval"
        return Estimate(value, math.nan, math.nan, n_documents, level, n_tokens, "", reason)
    value = float(sums.sum() / n_tokens)
    half, method = half_width(sums, sizes, level, draws, seed)
    reason = "" if math.isfinite(half) else "too few documents for an interval of this level"
    return Estimate(value, value - half, value + half, n_documents, level, n_tokens, method, reason)


def paired(
    a: TokenLosses,
    b: TokenLosses,
    *,
    common: bool = False,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Return the mean of a - b over the same tokens: negative if a has the lower loss.

    ValueError if the token sets differ; with `common` the tokens of both are used instead.
    """
    d = difference(a, b, common)
    return mean(d.nats, d.document, level, draws, seed)


def per_document(nats: np.ndarray, document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nats and tokens of each document, float64 [documents], documents ascending."""
    _, row = np.unique(document, return_inverse=True)
    n_documents = int(row.max()) + 1 if len(row) else 0
    sums = np.bincount(row, weights=nats.astype(np.float64), minlength=n_documents)
    return sums, np.bincount(row, minlength=n_documents).astype(np.float64)


def why_no_number(nats: np.ndarray, document: np.ndarray) -> str:
    """Return why these losses have no finite mean, or ""."""
    if not len(nats):
        return "no tokens"
    bad = ~np.isfinite(nats)
    if not bad.any():
        return ""
    return (
        f"{int(bad.sum())} of {len(nats)} losses are not finite, "
        f"the first in document {int(document[bad].min())}"
    )


def half_width(
    sums: np.ndarray, sizes: np.ndarray, level: float, draws: int, seed: int
) -> tuple[float, str]:
    """Return half the symmetric interval of sums.sum() / sizes.sum(), and the method used.

    sums, sizes: float64 [documents], at least two, finite.
    """
    n_documents, total = len(sums), sizes.sum()
    residuals = sums - sums.sum() / total * sizes
    if np.abs(residuals).max() <= 1e-12 * max(np.abs(sums).max(), 1e-300):
        return 0.0, BOOTSTRAP if n_documents >= FEWEST_FOR_BOOTSTRAP else JACKKNIFE
    if n_documents < FEWEST_FOR_BOOTSTRAP:
        # Without document g the ratio moves by -residual / (remaining tokens).
        moved = -residuals / (total - sizes)
        error = math.sqrt(((moved - moved.mean()) ** 2).sum() * (n_documents - 1) / n_documents)
        return float(stdtrit(n_documents - 1, (1 + level) / 2) * error), JACKKNIFE
    error = math.sqrt((residuals**2).sum() * n_documents / (n_documents - 1)) / total
    t = _bootstrap_t(residuals, sizes, draws, seed)
    # The smallest drawn value that a share `level` of the draws does not exceed.
    return float(np.quantile(t, level, method="inverted_cdf") * error), BOOTSTRAP


def _bootstrap_t(residuals: np.ndarray, sizes: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return |t| of the ratio in draws of as many documents with replacement, float64 [draws]."""
    random = np.random.default_rng(seed)
    n_documents = len(residuals)
    moments = np.stack([residuals, sizes, residuals**2, residuals * sizes, sizes**2], axis=1)
    blocks = []
    for begin in range(0, draws, step := max(1, BLOCK // n_documents)):
        n = min(step, draws - begin)
        counts = random.multinomial(n_documents, np.full(n_documents, 1 / n_documents), size=n)
        r, m, rr, rm, mm = (counts @ moments).T
        moved = r / m
        squares = np.maximum(rr - 2 * moved * rm + moved**2 * mm, 0)
        error = np.sqrt(squares * n_documents / (n_documents - 1)) / m
        # A draw of one document n_documents times has an error of zero up to rounding.
        usable = (counts.max(axis=1) < n_documents) & (error > 0)
        t = np.full(n, np.inf)
        t[usable] = np.abs(moved[usable]) / error[usable]
        t[moved == 0] = 0
        blocks.append(t)
    return np.concatenate(blocks)


def _total(sums: np.ndarray) -> float:
    """Return a sum that may be inf or nan, without NumPy's warning."""
    with np.errstate(invalid="ignore"):
        return float(sums.sum())
