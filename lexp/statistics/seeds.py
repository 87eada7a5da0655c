"""Means and differences over seeds: training runs are independent draws, tokens are not.

Two intervals are reported because they answer two questions. Over seeds, documents held fixed:
would other training runs do the same on these texts? Over documents, seeds held fixed: would these
runs do the same on other texts? Neither contains the other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from lexp.statistics.clustered import DRAWS, LEVEL, Estimate, mean
from lexp.statistics.scored import TokenLosses, aligned, difference

WELCH, PAIRED = "Welch t", "paired t, seeds matched by number"


@dataclass(frozen=True)
class Interval:
    """An interval over seeds, in nats per token; nan with a reason if there is none."""

    low: float
    high: float
    level: float
    reason: str = ""


@dataclass(frozen=True)
class AcrossSeeds:
    """A variant's mean over its seeds.

    seeds: the value of each seed, in ascending order of `numbers`. over_documents: interval of
    documents drawn jointly for all seeds; its value is the mean.
    """

    mean: float
    seeds: tuple[float, ...]
    numbers: tuple[int, ...]
    over_seeds: Interval
    over_documents: Estimate


@dataclass(frozen=True)
class Difference:
    """Difference a - b of two variants' means over their seeds.

    a, b: the value of each seed. p: two-sided, of the test over seeds named `test`; nan with the
    reason in over_seeds. over_documents: on the same tokens, documents drawn jointly for all.
    """

    mean: float
    a: tuple[float, ...]
    b: tuple[float, ...]
    over_seeds: Interval
    p: float
    test: str
    over_documents: Estimate


def across(
    runs: Mapping[int, TokenLosses], level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> AcrossSeeds:
    """Return the mean over runs of one variant, by seed.

    ValueError without runs, or if they were not scored on the same tokens.
    """
    values, averaged = _values(runs), average(runs)
    over_documents = mean(averaged.nats, averaged.document, level, draws, seed)
    over_seeds = t_interval(values, level)
    return AcrossSeeds(_mean(values), values, tuple(sorted(runs)), over_seeds, over_documents)


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return Student's t interval of the mean of independent values; nan below two values."""
    if reason := _no_spread(values):
        return Interval(math.nan, math.nan, level, reason)
    error = math.sqrt(np.var(values, ddof=1) / len(values))
    return around(_mean(values), error, len(values) - 1, level)


def independent(
    a: Mapping[int, TokenLosses],
    b: Mapping[int, TokenLosses],
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Return a - b by Welch's t: every run is an independent draw, also at equal seeds.

    The default: two architectures share no useful randomness at equal seeds.
    ValueError without runs, or if they were not scored on the same tokens.
    """
    over_documents = _over_documents(a, b, level, draws, seed)
    of_a, of_b = _values(a), _values(b)
    centre = _mean(of_a) - _mean(of_b)
    reason = _no_spread(of_a) or _no_spread(of_b)
    if reason:
        interval, p = Interval(math.nan, math.nan, level, reason), math.nan
    else:
        v_a, v_b = (float(np.var(v, ddof=1)) / len(v) for v in (of_a, of_b))
        error, freedom = math.sqrt(v_a + v_b), math.inf
        if error > 0:
            freedom = (v_a + v_b) ** 2 / (v_a**2 / (len(of_a) - 1) + v_b**2 / (len(of_b) - 1))
        interval = around(centre, error, freedom, level)
        p = two_sided(centre, error, freedom)
    return Difference(centre, of_a, of_b, interval, p, WELCH, over_documents)


def paired_by_seed(
    a: Mapping[int, TokenLosses],
    b: Mapping[int, TokenLosses],
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Return a - b with runs of equal seed as pairs: the paired t-test of Chi et al. 2022.

    KERPLE (arXiv 2205.09921) reports it over five seeds. It is valid only if equal seeds share
    randomness, such as the order of the data.
    ValueError if the seeds differ, there are none, or the tokens are not the same.
    """
    if set(a) != set(b):
        raise ValueError(f"seeds {sorted(a)} and {sorted(b)} are no pairs")
    over_documents = _over_documents(a, b, level, draws, seed)
    of_a, of_b = _values(a), _values(b)
    differences = [x - y for x, y in zip(of_a, of_b, strict=True)]
    interval, p = t_interval(differences, level), math.nan
    if not interval.reason:
        error = math.sqrt(np.var(differences, ddof=1) / len(differences))
        p = two_sided(_mean(differences), error, len(differences) - 1)
    return Difference(_mean(differences), of_a, of_b, interval, p, PAIRED, over_documents)


def _values(runs: Mapping[int, TokenLosses]) -> tuple[float, ...]:
    """Return the mean of each run, seeds ascending."""
    with np.errstate(invalid="ignore"):  # inf - inf
        return tuple(
            float(runs[n].nats.mean(dtype=np.float64)) if len(runs[n]) else math.nan
            for n in sorted(runs)
        )


def average(runs: Mapping[int, TokenLosses]) -> TokenLosses:
    """Return the mean over runs token by token, in the first run's order.

    ValueError without runs, or if they were not scored on the same tokens.
    """
    if not runs:
        raise ValueError("no runs to average over")
    first, *others = (runs[n] for n in sorted(runs))
    total: np.ndarray = first.nats.astype(np.float64)
    for other in others:
        with np.errstate(invalid="ignore"):
            total = total + other.nats[aligned(first, other)[1]]
    return TokenLosses(total / len(runs), first.document, first.position)


def _over_documents(
    a: Mapping[int, TokenLosses], b: Mapping[int, TokenLosses], level: float, draws: int, seed: int
) -> Estimate:
    d = difference(average(a), average(b))
    return mean(d.nats, d.document, level, draws, seed)


def _no_spread(values: Sequence[float]) -> str:
    """Return why these values have no interval, or ""."""
    if not all(math.isfinite(v) for v in values):
        return "a seed's loss is not finite"
    return "one seed alone has no interval" if len(values) < 2 else ""


def around(centre: float, error: float, freedom: float, level: float) -> Interval:
    """Return Student's interval around a value with a standard error."""
    half = float(stdtrit(freedom, (1 + level) / 2)) * error if error > 0 else 0.0
    return Interval(centre - half, centre + half, level)


def two_sided(centre: float, error: float, freedom: float) -> float:
    """Return p of |t|; without any spread it is 1 for equal means and 0 otherwise."""
    if error == 0:
        return 1.0 if centre == 0 else 0.0
    return 2 * float(stdtr(freedom, -abs(centre) / error))


def _mean(values: Sequence[float]) -> float:
    """Return the mean; inf and nan give no warning."""
    return sum(values) / len(values)
