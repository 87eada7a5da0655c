"""Averages over the examples of a probe, and how sure they are."""

import math

import numpy as np

from lexp.probes.result import ProbeMeasures
from lexp.probes.score import Scores

RESAMPLES = 2000
NO_MEASURES = ProbeMeasures(*[math.nan] * 11)


def measure(scores: Scores) -> ProbeMeasures:
    """Average over examples and their answer tokens."""
    ranks = scores.candidate_rank
    low, high = interval(scores.example_gain)
    return ProbeMeasures(
        accuracy=float(scores.correct.mean()),
        token_accuracy=float((scores.rank == 1).mean()),
        control_accuracy=float((scores.control_rank == 1).mean()),
        candidate_accuracy=float((ranks == 1).mean()) if len(ranks) else math.nan,
        rank=float(np.median(scores.rank)),
        control_rank=float(np.median(scores.control_rank)),
        nll=float(scores.nll.mean()),
        control_nll=float(scores.control_nll.mean()),
        gain=float(scores.example_gain.mean()),
        gain_low=low,
        gain_high=high,
    )


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean by resampling examples [n]; equal for equal values."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
