"""The claims that losses support: reach, use of longer context, and their certainty."""

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
from lexp.system.output import Tally

WINDOWS = ("window", "bidirectional_window")
BLOCKS = ("blockwise", "bidirectional_blockwise")
CHUNKS = ("chunked",)


@dataclass(frozen=True)
class Claim:
    """The claim of a row of the table.

    reach: of the mean over seeds. seeds: each seed's own. gain: at the length reached, None where
    nothing was reached. window: against the plain window of the trained length at the longest
    length that both have, None where there is none; at_window is that length. within: gain of the
    trained length over the shortest one, None where no shorter one has a number.
    """

    series: ResultSeries
    reach: Reach
    seeds: dict[int, Reach]
    gain: Estimate | None
    window: AgainstWindow | None
    at_window: int | None
    within: Estimate | None

    @property
    def is_window(self) -> bool:
        """Return True for the plain window that others are compared with, of any size."""
        return _is_plain_window(self.series)

    @property
    def sees_further(self) -> bool:
        """Return True if queries may see keys beyond the trained length.

        False for windows and blocks within it; True for code that is not lexp's.
        """
        pattern, train_len = self.series.pattern, self.series.train_len
        if pattern.code:
            return True
        if pattern.name in WINDOWS:
            return (pattern.values.get("window") or train_len) > train_len
        if pattern.name in BLOCKS:
            return 2 * (pattern.values.get("block") or train_len // 2) > train_len
        if pattern.name in CHUNKS:
            return (pattern.values.get("chunk") or train_len) > train_len
        return True


def mean_losses(series: ResultSeries, ids: DocumentIds) -> dict[int, TokenLosses | str]:
    """Return by length the losses of every token, averaged over seeds, or why there are none."""
    return {
        length: series.failure(length) or average(seed_losses(series, length, ids))
        for length in series.lengths
    }


def seed_losses(series: ResultSeries, length: int, ids: DocumentIds) -> dict[int, TokenLosses]:
    """Return by seed the losses of every token at a length."""
    by_seed = series.results[length]
    return {seed: ids.scored(result.losses()) for seed, result in by_seed.items()}


def claims(all_series: list[ResultSeries], delta: float) -> list[Claim]:
    """Return reach, gain and comparison with the window of all series whose lengths are paired."""
    ids, found = DocumentIds(), []
    paired = [series for series in all_series if series.protocol.paired]
    tally = Tally("reach and gain", len(paired))
    for series in paired:
        found.append(_claim(series, _window_of(series, all_series), delta, ids))
        tally.advance()
    return found


def _claim(
    series: ResultSeries, window: ResultSeries | None, delta: float, ids: DocumentIds
) -> Claim:
    means = mean_losses(series, ids)
    mean_reach = reach(means, series.train_len, delta)
    seeds = series.seeds if len(series.seeds) > 1 else []
    seed_reach = {seed: reach(_of_seed(series, seed, ids), series.train_len, delta)
                  for seed in seeds}  # fmt: skip
    saved = None
    if mean_reach.length is not None and mean_reach.length > series.train_len:
        saved = gain(means, series.train_len, mean_reach.length)
    at = _common_length(series, window, means)
    against = None
    if window is not None and at is not None:
        ours, theirs = means[at], average(seed_losses(window, at, ids))
        if isinstance(ours, TokenLosses):
            against = against_window(ours, theirs)
    within = _gain_within(series, means) if mean_reach.length is not None else None
    return Claim(series, mean_reach, seed_reach, saved, against, at, within)


def _gain_within(series: ResultSeries, means: dict[int, TokenLosses | str]) -> Estimate | None:
    """Return what the trained length gains over the shortest one with a number."""
    shorter = [
        n for n in series.lengths
        if n < series.train_len and isinstance(means[n], TokenLosses)
    ]  # fmt: skip
    return gain(means, shorter[0], series.train_len) if shorter else None


def _of_seed(series: ResultSeries, seed: int, ids: DocumentIds) -> dict[int, TokenLosses | str]:
    """Return by length the losses of every token of one seed, or that there are none."""
    by_length: dict[int, TokenLosses | str] = {}
    for length in series.lengths:
        result = series.results[length].get(seed)
        scored = result is not None and result.ok
        by_length[length] = ids.scored(result.losses()) if result and scored else "no number"
    return by_length


def _window_of(series: ResultSeries, all_series: list[ResultSeries]) -> ResultSeries | None:
    """Return the same variant's plain window of the trained length; None for that series itself."""
    same = [
        other for other in all_series
        if _is_plain_window(other)
        # An open size is the trained length.
        and other.pattern.values.get("window") in (None, series.train_len)
        and other.pattern.values.get("share", 1.0) == 1.0
        and (other.variant, other.protocol.label, other.scored)
        == (series.variant, series.protocol.label, series.scored)
    ]  # fmt: skip
    return same[0] if same and same[0] is not series else None


def _is_plain_window(series: ResultSeries) -> bool:
    is_own = bool(series.pattern.code)
    return series.pattern.name in WINDOWS and not is_own and not series.is_extended


def _common_length(
    series: ResultSeries, window: ResultSeries | None, means: dict[int, TokenLosses | str]
) -> int | None:
    """Return the longest length beyond the trained one at which both have a number."""
    both = [
        length for length in series.lengths
        if window is not None
        and length > series.train_len
        and isinstance(means[length], TokenLosses)
        and window.has_number(length)
        and set(window.results[length]) == set(series.results[length])
    ]  # fmt: skip
    return max(both, default=None)
