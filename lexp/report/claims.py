"""From losses to claims: how far, whether longer context is used, and how sure that is."""

from dataclasses import dataclass

from lexp.report.study_results import DocumentIds, ResultSeries
from lexp.statistics import (
    AgainstWindow,
    Estimate,
    Reach,
    TokenLosses,
    against_window,
    average,
    gain,
    reach,
)

# Protocols whose lengths score different tokens: a difference between lengths would mean nothing.
UNPAIRED = "prefix"
WINDOWS = ("window", "bidirectional_window")


@dataclass(frozen=True)
class Claim:
    """What a line of the table amounts to.

    reach: of the mean over seeds. seeds: each seed's own. gain: at the length reached, None where
    nothing was reached. window: against the plain window of the trained length at the longest
    length that both have, None where there is none; at_window is that length.
    """

    line: ResultSeries
    reach: Reach
    seeds: dict[int, Reach]
    gain: Estimate | None
    window: AgainstWindow | None
    at_window: int | None


def mean_losses(line: ResultSeries, numbers: DocumentIds) -> dict[int, TokenLosses | str]:
    """By length: losses of every token, averaged over seeds, or why there are none."""
    found: dict[int, TokenLosses | str] = {}
    for length in line.lengths:
        failure = line.failure(length)
        found[length] = failure or average(seed_losses(line, length, numbers))
    return found


def seed_losses(line: ResultSeries, length: int, numbers: DocumentIds) -> dict[int, TokenLosses]:
    """By seed: losses of every token at a length."""
    return {s: numbers.scored(known.losses()) for s, known in line.cells[length].items()}


def claims(found: list[ResultSeries], delta: float) -> list[Claim]:
    """Reach, gain and the comparison with the window, for every line whose lengths are paired."""
    numbers = DocumentIds()
    return [
        _claim(line, _window_of(line, found), delta, numbers)
        for line in found
        if not line.protocol.startswith(UNPAIRED)
    ]


def _claim(
    line: ResultSeries, window: ResultSeries | None, delta: float, numbers: DocumentIds
) -> Claim:
    means = mean_losses(line, numbers)
    whole = reach(means, line.train_len, delta)
    seeds = {}
    for seed in line.seeds if len(line.seeds) > 1 else []:
        own: dict[int, TokenLosses | str] = {}
        for length in line.lengths:
            known = line.cells[length].get(seed)
            good = known is not None and known.cell.ok
            own[length] = numbers.scored(known.losses()) if known and good else "no number"
        seeds[seed] = reach(own, line.train_len, delta)
    saved = None
    if whole.length is not None and whole.length > line.train_len:
        saved = gain(means, line.train_len, whole.length)
    at = _common_length(line, window, means)
    against = None
    if window is not None and at is not None:
        ours, theirs = means[at], average(seed_losses(window, at, numbers))
        if isinstance(ours, TokenLosses):
            against = against_window(ours, theirs)
    return Claim(line, whole, seeds, saved, against, at)


def _window_of(line: ResultSeries, found: list[ResultSeries]) -> ResultSeries | None:
    """The same variant's plain window of the trained length; None for that line itself."""
    same = [
        other for other in found
        if other.attention.removesuffix(f"-{line.train_len}") in WINDOWS
        and other.extension == "none"
        and (other.variant, other.protocol, other.text, other.precision)
        == (line.variant, line.protocol, line.text, line.precision)
    ]  # fmt: skip
    return same[0] if same and same[0] is not line else None


def _common_length(
    line: ResultSeries, window: ResultSeries | None, means: dict[int, TokenLosses | str]
) -> int | None:
    """The longest length beyond the trained one at which both have numbers of every seed."""
    both = [
        length for length in line.lengths
        if window is not None
        and length > line.train_len
        and isinstance(means[length], TokenLosses)
        and length in window.cells
        and not window.failure(length)
        and set(window.cells[length]) == set(line.cells[length])
        and line.same_amount(length, window, length)
    ]  # fmt: skip
    return max(both, default=None)
