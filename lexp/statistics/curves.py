"""Loss by the context of a target, and the targets for which distant context matters.

Context is the number of tokens that a target's prediction sees in its window: t for target t of a
window, 1 for the first.
"""

import math
from dataclasses import dataclass

import numpy as np

from lexp.statistics.clustered import DRAWS, LEVEL, Estimate, mean
from lexp.statistics.scored import TokenLosses, aligned, check

# arXiv 2410.23771's thresholds in nats.
ALPHA, BETA = 2.0, -2.0


@dataclass(frozen=True)
class Bin:
    """Targets whose context is first .. below - 1 tokens; the loss is nan if there are none."""

    first: int
    below: int
    n_tokens: int
    loss: Estimate


def geometric_edges(longest: int, per_octave: int = 2) -> np.ndarray:
    """Return ascending int64 edges from 1 to longest + 1, per_octave bins per doubling.

    Narrow bins without a whole number are merged. ValueError below 1.
    """
    if longest < 1 or per_octave < 1:
        raise ValueError(f"at least 1 token and 1 bin an octave, not {longest} and {per_octave}")
    n = math.ceil(per_octave * math.log2(longest + 1))
    inner = np.round(2.0 ** (np.arange(n) / per_octave)).astype(np.int64)
    return np.unique(np.append(inner, longest + 1))


def by_context(
    nats: np.ndarray,
    document: np.ndarray,
    context: np.ndarray,
    edges: np.ndarray,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Bin, ...]:
    """Return the mean loss of each bin edges[i] <= context < edges[i + 1], clustered by document.

    nats float [n]; document, context int [n]; edges ascending int [bins + 1]. ValueError if a
    context lies outside all bins: no loss is left out silently.
    """
    check(nats, document)
    check(nats, context)
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        raise ValueError("edges are at least two and ascend")
    row = np.searchsorted(edges, context, side="right") - 1
    outside = (row < 0) | (row > len(edges) - 2)
    if outside.any():
        raise ValueError(
            f"{int(outside.sum())} contexts are outside {edges[0]} .. {edges[-1] - 1}, "
            f"such as {context[outside][0]}"
        )
    bins = []
    for i in range(len(edges) - 1):
        inside = row == i
        loss = mean(nats[inside], document[inside], level, draws, seed)
        bins.append(Bin(int(edges[i]), int(edges[i + 1]), int(inside.sum()), loss))
    return tuple(bins)


def last(
    nats: np.ndarray,
    document: np.ndarray,
    context: np.ndarray,
    length: int,
    k: int,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Return the mean loss of the last k targets of full windows (context above length - k).

    It shows a break in the loss that a mean over the whole window hides. ValueError unless
    1 <= k <= length.
    """
    if not 1 <= k <= length:
        raise ValueError(f"the last {k} of {length} targets")
    check(nats, context)
    inside = context > length - k
    return mean(nats[inside], document[inside], level, draws, seed)


def key_tokens(
    short: TokenLosses, long: TokenLosses, alpha: float = ALPHA, beta: float = BETA
) -> np.ndarray:
    """Return LongPPL's long-range targets by a judge's losses, bool [n] in the order of long.

    A long-range target gains more than alpha nats of log-likelihood from long instead of short
    context, and has more than beta with the long context. Fang et al. 2024, arXiv 2410.23771.

    A target is also chosen if the judge was lucky on it with the long context, or unlucky with the
    short context. The judge's own losses on the chosen targets therefore show a gain even if there
    is none (regression to the mean): measure other runs on them, or choose by one seed and measure
    another. ValueError if the two differ in their tokens or a loss is not finite.
    """
    _, in_short = aligned(long, short)
    before = short.nats[in_short].astype(np.float64)
    after: np.ndarray = long.nats.astype(np.float64)
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError("a judge's losses are finite")
    return (before - after > alpha) & (-after > beta)
