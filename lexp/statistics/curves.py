"""Loss by how much context a target had, and the targets for which far context matters.

Context counts the tokens that a target's prediction sees in its window: target t of a window has
t, the first one 1.
"""

import math
from dataclasses import dataclass

import numpy as np

from lexp.statistics.clustered import DRAWS, LEVEL, Estimate, mean
from lexp.statistics.scored import TokenLosses, aligned, check

# arXiv 2410.23771's thresholds in nats, also the defaults of the authors' code.
ALPHA, BETA = 2.0, -2.0


@dataclass(frozen=True)
class Bin:
    """Targets whose context is first .. below - 1 tokens; the loss is nan if there are none."""

    first: int
    below: int
    n_tokens: int
    loss: Estimate


def geometric_edges(longest: int, per_octave: int = 2) -> np.ndarray:
    """Ascending int64 edges from 1 to longest + 1, per_octave bins to each doubling of context.

    Narrow bins that would hold no whole number are joined. ValueError below 1.
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
    """Mean loss of each bin edges[i] <= context < edges[i + 1], clustered by document.

    nats float [n]; document, context int [n]; edges ascending int [bins + 1]. ValueError if a
    context lies outside all bins: no loss is left out unsaid.
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
    """Mean loss of the last k targets of full windows: those with more than length - k of context.

    Where a prefix mean over the window hides the break, this shows it. ValueError unless
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
    """LongPPL's long-range targets by a judge's losses, bool [n] in the order of long.

    Such a target gains more than alpha nats of log-likelihood from long instead of short context,
    and has more than beta with the long one. Fang et al. 2024, arXiv 2410.23771.

    A target is also chosen when the judge was lucky on it with the long context or unlucky
    with the short one. So the judge's own losses on its choice show a gain where there is none
    (regression to the mean): measure other runs on it, or choose by one seed and measure another.
    ValueError if the two differ in their tokens or a loss is not finite.
    """
    _, in_short = aligned(long, short)
    before = short.nats[in_short].astype(np.float64)
    after: np.ndarray = long.nats.astype(np.float64)
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError("a judge's losses are finite")
    return (before - after > alpha) & (-after > beta)
