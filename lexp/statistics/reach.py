"""Extrapolation length (reach) of a model, and its use of context beyond the trained length.

A model may keep its loss at any length by ignoring distant tokens, so the reach alone does not
prove that context is used; `gain` and `against_window` test that.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lexp.statistics.clustered import DRAWS, LEVEL, Estimate, paired
from lexp.statistics.scored import TokenLosses, same_tokens

BETTER = "better than a window"
NO_BETTER = "no better than a window"
WORSE = "worse than a window"
NOT_KNOWN = "not known"


@dataclass(frozen=True)
class Reach:
    """The longest length up to which a model is not worse than at its trained length by delta.

    length: by the paired difference itself; sure: by the upper end of its interval; possible: by
    the lower end. None if there is no answer, with the reason. censored: length is the longest
    tested, so read it as "at least"; the same holds for sure and possible if they equal longest.
    reason: why there is no answer, or why a length could not be compared, or "".
    """

    length: int | None
    sure: int | None
    possible: int | None
    censored: bool
    delta: float
    level: float
    longest: int
    reason: str = ""


@dataclass(frozen=True)
class AgainstWindow:
    """A method minus the same model's plain window of the trained length, on the same tokens."""

    difference: Estimate
    verdict: str


def reach(
    losses_by_length: Mapping[int, TokenLosses | str],
    train_len: int,
    delta: float,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Reach:
    """Return the longest length up to which the loss is worse by at most delta nats per token.

    A failed length has its reason in place of losses, and ends the reach; so does a loss that is
    not finite. Lengths are tested in ascending order and the first failure ends the reach, so
    `sure` needs no correction for many lengths: it is too long with a probability of at most
    (1 - level) / 2, as far as the intervals hold. ValueError if delta is negative.
    """
    if not delta >= 0:
        raise ValueError(f"delta is a loss one would accept, in nats, not {delta}")
    longest = max(losses_by_length, default=train_len)
    trained = losses_by_length.get(train_len)
    if reason := _no_start(losses_by_length, train_len):
        return Reach(None, None, None, False, delta, level, longest, reason)
    assert isinstance(trained, TokenLosses)
    length = sure = possible = train_len
    going = {"length": True, "sure": True, "possible": True}
    start = paired(trained, trained, level=level, draws=draws, seed=seed)
    has_interval, reason = math.isfinite(start.low), start.reason
    for tested in sorted(n for n in losses_by_length if n > train_len):
        at = losses_by_length[tested]
        if isinstance(at, str):
            reason = reason or f"{tested}: {at}"
            break
        d = paired(at, trained, level=level, draws=draws, seed=seed)
        if not math.isfinite(d.value):
            reason = reason or f"{tested}: {d.reason}"
            break
        # After a length that was worse, longer lengths do not count.
        going["length"] &= d.value <= delta
        going["sure"] &= d.high <= delta
        going["possible"] &= d.low <= delta
        length = tested if going["length"] else length
        sure = tested if going["sure"] else sure
        possible = tested if going["possible"] else possible
        if not any(going.values()):
            break
    censored = length == longest
    if not has_interval:
        return Reach(length, None, None, censored, delta, level, longest, reason)
    return Reach(length, sure, possible, censored, delta, level, longest, reason)


def gain(
    losses_by_length: Mapping[int, TokenLosses | str],
    train_len: int,
    at: int,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Return the gain of context beyond the trained length: loss(train_len) - loss(at).

    In nats per token; nan with the reason if a length failed. KeyError if a length was not
    evaluated; ValueError if the lengths did not score the same tokens.
    """
    short, long = losses_by_length[train_len], losses_by_length[at]
    for length, losses in ((train_len, short), (at, long)):
        if isinstance(losses, str):
            nan = math.nan
            return Estimate(nan, nan, nan, 0, level, reason=f"{length}: {losses}")
    assert isinstance(short, TokenLosses) and isinstance(long, TokenLosses)
    return paired(short, long, level=level, draws=draws, seed=seed)


def against_window(
    losses: TokenLosses,
    window_losses: TokenLosses,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> AgainstWindow:
    """Compare a method with the plain window of the trained length, on the same tokens.

    A method that uses longer context beats the window. The converse does not hold: a pattern that
    sees no more than the window can beat it too, by leaving out distances that were hardly trained.

    ValueError if length or tokens differ. The verdict is the side of zero on which the whole
    interval lies; "not known" if there is no interval.
    """
    d = paired(losses, window_losses, level=level, draws=draws, seed=seed)
    if d.value == math.inf:
        return AgainstWindow(d, WORSE)
    if not (math.isfinite(d.low) and math.isfinite(d.high)):
        return AgainstWindow(d, NOT_KNOWN)
    verdict = BETTER if d.high < 0 else WORSE if d.low > 0 else NO_BETTER
    return AgainstWindow(d, verdict)


def _no_start(losses_by_length: Mapping[int, TokenLosses | str], train_len: int) -> str:
    """Return why there is no reach at all, or ""."""
    if train_len not in losses_by_length:
        return f"the trained length {train_len} was not evaluated"
    trained = losses_by_length[train_len]
    if isinstance(trained, str):
        return f"the trained length {train_len}: {trained}"
    for length, losses in sorted(losses_by_length.items()):
        if (
            length > train_len
            and isinstance(losses, TokenLosses)
            and not same_tokens(trained, losses)
        ):
            return f"{train_len} and {length} were not scored on the same tokens"
    start = paired(trained, trained, draws=1)
    return "" if start.value == 0 else f"the trained length {train_len}: {start.reason}"
