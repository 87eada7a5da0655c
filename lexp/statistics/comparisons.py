"""Tests of paired differences, and their adjustment for multiple comparisons."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lexp.statistics.clustered import per_document, why_no_number
from lexp.statistics.scored import TokenLosses

MOST_ENUMERATED = 16  # documents; 2^16 sign patterns
FLIPS = 20_000
BLOCK = 4_000_000  # signs held at once


@dataclass(frozen=True)
class SignFlips:
    """Result of the two-sided test that a document's difference has either sign equally often.

    value: mean difference in nats per token. exact: True if all n_flips sign patterns were tried,
    False if they were drawn. smallest_p: the smallest p that this test can return.
    reason: why p is nan, or "".
    """

    value: float
    p: float
    exact: bool
    n_flips: int
    smallest_p: float
    n_documents: int
    reason: str = ""


@dataclass(frozen=True)
class Adjusted:
    """One comparison's p-value, and the p-value adjusted for its family of comparisons."""

    name: str
    p: float
    adjusted: float
    family: str
    family_size: int


def sign_flips(paired: TokenLosses, flips: int = FLIPS, seed: int = 0) -> SignFlips:
    """Test token by token differences (see `difference`) against zero.

    The statistic is |total nats / total tokens| after the differences of each document changed
    sign together. Up to 16 documents all patterns are tried. Above, patterns are drawn at random
    and the observed pattern is counted too (Phipson & Smyth 2010), so that p is never zero.
    """
    sums, _ = per_document(paired.nats, paired.document)
    n_documents = len(sums)
    if reason := why_no_number(paired.nats, paired.document):
        nan = math.nan
        return SignFlips(nan, nan, False, 0, nan, n_documents, reason)
    observed = abs(float(sums.sum()))
    # Patterns that tie in exact arithmetic have to tie in floats too.
    least = observed - 1e-12 * float(np.abs(sums).sum())
    value = float(sums.sum() / len(paired))
    if n_documents <= MOST_ENUMERATED:
        # Changing every sign leaves |total| unchanged, so half of the patterns stand for all.
        half = np.arange(2 ** (n_documents - 1))[:, None] >> np.arange(n_documents) & 1
        p = float((np.abs((1.0 - 2.0 * half) @ sums) >= least).mean())
        n_flips = 2**n_documents
        return SignFlips(value, p, True, n_flips, 2 / n_flips, n_documents)
    random, as_far = np.random.default_rng(seed), 0
    for begin in range(0, flips, step := max(1, BLOCK // n_documents)):
        signs = random.integers(0, 2, (min(step, flips - begin), n_documents), dtype=np.int8)
        as_far += int((np.abs((1.0 - 2.0 * signs) @ sums) >= least).sum())
    p = (1 + as_far) / (1 + flips)
    return SignFlips(value, p, False, flips, 1 / (1 + flips), n_documents)


def holm(p_values: Mapping[str, float], family: str) -> tuple[Adjusted, ...]:
    """Adjust p-values by name for the chance of any false finding in the family (Holm 1979).

    family: in words, what the comparisons were chosen from. A comparison without a p-value (nan)
    counts in the size of the family, since it was planned, and stays nan. ValueError outside
    [0, 1].
    """
    size = len(p_values)
    for name, p in p_values.items():
        if not (math.isnan(p) or 0 <= p <= 1):
            raise ValueError(f"{name}: {p} is not a p-value")
    ascending = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    adjusted, so_far = {}, 0.0
    for rank, (p, name) in enumerate(ascending):
        so_far = max(so_far, min(1.0, (size - rank) * p))
        adjusted[name] = so_far
    return tuple(
        Adjusted(name, p, adjusted.get(name, math.nan), family, size)
        for name, p in p_values.items()
    )
