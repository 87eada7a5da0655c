"""The sentences that a report opens with, made from reach, gain and paired differences.

A sentence says what is not known rather than nothing, and what to type to find out. Long lists are
cut to their beginning and a count: the tables have the rest. Names are whole, for two of them could
differ at their ends alone.
"""

import math
from collections.abc import Iterable, Sequence

from lexp.report.claims import Claim
from lexp.report.differences import SURE, Comparisons, PairedDifference
from lexp.report.row_names import Scored
from lexp.report.study_results import ResultSeries
from lexp.statistics import BETTER, NOT_KNOWN
from lexp.system.text import counted

# A list of more names than FEW is cut to its first MOST; one of more groups than GROUPS to those.
FEW, MOST, GROUPS = 6, 2, 4


def answer(claims: Sequence[Claim], baseline: Comparisons, n_models: int) -> tuple[str, ...]:
    """Return the sentences on one protocol whose lengths are paired.

    baseline: the models against the baseline at the longest length. n_models: under the protocol.
    """
    plain = [claim for claim in claims if claim.series.is_plain]
    sentences = (
        _holds(plain),
        _unlearned(plain),
        _further(claims, plain),
        _against_windows(claims),
        _gains(claims),
        _against_baseline(baseline, n_models),
    )
    return tuple(sentence for sentence in sentences if sentence)


def _holds(plain: Sequence[Claim]) -> str:
    """Say up to which length each model holds its loss as it was trained."""
    if not plain:
        return "Holds to: not known, full attention was not scored (attention=[full])."
    longer = [claim for claim in plain if claim.reach.longest > claim.series.train_len]
    at = _trained(plain)
    if not longer:
        return f"Holds to: not known, no length beyond {at} was scored (lengths=)."
    known = [claim for claim in longer if claim.reach.length and not _is_unlearned(claim)]
    is_few = len(longer) <= FEW
    groups: dict[str, list[str]] = {}
    for claim in sorted(known, key=_multiple, reverse=True):
        groups.setdefault(_reach_text(claim, is_few), []).append(_model(claim.series))
    parts = [f"{_listed(names)} {reach}" for reach, names in groups.items()]
    parts = _cut(parts, "group")
    unknown = [_model(claim.series) for claim in longer if not claim.reach.length]
    parts += [f"not known for {_listed(unknown)}"] * bool(unknown)
    if not parts:
        return ""
    separator = "; " if any(", " in part for part in parts) else ", "
    delta = longer[0].reach.delta
    return (
        f"Holds to: {separator.join(parts)} (loss within {delta:g} nats per token of that at {at})."
    )


def _unlearned(plain: Sequence[Claim]) -> str:
    """Name the models whose reach means nothing, because they use no context at all."""
    found = [claim for claim in plain if _is_unlearned(claim)]
    if not found:
        return ""
    shortest = min(found[0].series.lengths)
    verb = "is" if len(found) == 1 else "are"
    return (
        f"{_listed(_model(claim.series) for claim in found)} {verb} no better at {_trained(found)} "
        f"than at {shortest}: without use of context, any length holds."
    )


def _further(claims: Sequence[Claim], plain: Sequence[Claim]) -> str:
    """Say which methods hold further than the same model without them, the best of each model."""
    own = {_key(claim.series): claim for claim in plain}
    best: dict[tuple, Claim] = {}
    for claim in claims:
        key = _key(claim.series)
        if claim.series.is_plain or claim.is_window or key not in own:
            continue
        least = best.get(key, own[key]).reach.length
        if least and claim.reach.length and claim.reach.length > least:
            best[key] = claim
    groups: dict[str, list[str]] = {}
    for claim in sorted(best.values(), key=_multiple, reverse=True):
        words = f"{claim.series.plain_method} {_reach_text(claim, False)}"
        groups.setdefault(words, []).append(_model(claim.series))
    parts = [f"{words} ({_listed(names, 1)})" for words, names in groups.items()]
    return f"Further with a method: {'; '.join(_cut(parts, 'group'))}." if parts else ""


def _against_windows(claims: Sequence[Claim]) -> str:
    """Say what is better than the same model's plain window of the trained length."""
    window = f"a plain window of {_trained(claims)}"
    if not any(claim.is_window for claim in claims):
        return "Better than a plain window: not known, none was scored (attention=[full,window])."
    compared = [(claim, claim.window) for claim in claims if claim.window]
    if not compared:
        return f"Better than {window}: not known, no length beyond it has both."
    if all(against.verdict == NOT_KNOWN for _, against in compared):
        return f"Better than {window}: not known, {compared[0][1].difference.reason}."
    better = [(claim, against) for claim, against in compared if against.verdict == BETTER]
    if not better:
        return f"Nothing is better than {window} ({len(compared)} compared)."
    better.sort(key=lambda pair: pair[1].difference.value)
    lengths = {claim.at_window for claim, _ in better}
    where = f" at {next(iter(lengths))}" if len(lengths) == 1 else ""
    texts = [
        (claim.sees_further,
         f"{_row(claim.series)} ({against.difference.value:+.4f}"
         + f" at {claim.at_window}" * (not where) + ")")
        for claim, against in better
    ]  # fmt: skip
    further = [text for sees_further, text in texts if sees_further]
    near = [text for sees_further, text in texts if not sees_further]
    sentences = [
        f"Better than {window}{where}: {_listed(further, 1)}."
        if further
        else f"Nothing that sees further is better than {window}{where}."
    ]
    sentences += [f"Better without seeing further: {_listed(near, 1)}."] * bool(near)
    n_chance = round(0.025 * len(compared))
    sentences += [f"By chance, about {n_chance} of {len(compared)} would be."] * (n_chance > 0)
    return " ".join(sentences)


def _gains(claims: Sequence[Claim]) -> str:
    """Say what gains most from longer texts, and whether that is more than its window gains."""
    at = _trained(claims)
    gaining = [
        claim for claim in claims
        if claim.gain and claim.gain.low > 0 and not claim.is_window and claim.sees_further
    ]  # fmt: skip
    has_windows = any(claim.is_window for claim in claims)
    if not any(claim.reach.longest > claim.series.train_len for claim in claims):
        return ""
    using = [c for c in gaining if c.window and c.window.verdict == BETTER]
    if has_windows and not using:
        return "Nothing gains more from longer texts than its plain window does."
    if not gaining:
        return f"Nothing gains from texts longer than {at}."
    most: dict[Scored, Claim] = {}  # of the rows that compare
    for claim in sorted(using or gaining, key=lambda claim: claim.gain.value if claim.gain else 0):
        most[claim.series.scored] = claim
    parts = [
        f"{_row(claim.series)}, {claim.gain.value:.4f} nats per token at {claim.reach.length}"
        for claim in most.values()
        if claim.gain
    ]
    found = "; ".join(_cut(parts, "group"))
    if using:
        return f"Gains most from context beyond {at}: {found}."
    return f"Gains most from texts longer than {at}: {found}; its window may gain as much."


def _against_baseline(family: Comparisons, n_models: int) -> str:
    """Say which models are surely better or worse than the baseline, by the same method."""
    at, name = family.length, family.against
    if n_models < 2:
        return ""
    if not family.differences:
        return f"Nothing is compared with {name}: no row has a number on its tokens at {at}."
    sure = sorted(
        (one for one in family.differences if one.is_sure), key=lambda one: one.estimate.value
    )
    better = [_difference_text(one) for one in sure if one.estimate.value < 0]
    worse = [_difference_text(one) for one in reversed(sure) if one.estimate.value > 0]
    if not sure:
        n = len(family.differences)
        fewest = min(one.test.n_documents for one in family.differences)
        if all(one.test.smallest_p * n >= SURE for one in family.differences):
            return (
                f"No difference to {name} at {at} tokens can be sure: too few documents "
                f"({fewest}) for {counted(n, 'comparison')} by the same method."
            )
        return (
            f"No sure difference to {name} at {at} tokens ({counted(n, 'comparison')} by the same "
            "method)."
        )
    parts = [f"better {_listed(better, 1)}"] * bool(better)
    parts += [f"worse {_listed(worse, 1)}"] * bool(worse)
    return f"Against {name} at {at} tokens, by the same method: {'; '.join(parts)}."


def _difference_text(one: PairedDifference) -> str:
    return f"{_row(one.series)} ({one.estimate.value:+.4f})"


def _is_unlearned(claim: Claim) -> bool:
    """Return True if the trained length is not surely better than the shortest one."""
    if claim.within is None:
        return False
    low = claim.within.low if math.isfinite(claim.within.low) else claim.within.value
    return low <= 0


def _multiple(claim: Claim) -> float:
    return (claim.reach.length or 0) / claim.series.train_len


def _reach_text(claim: Claim, with_interval: bool) -> str:
    """Return the reach in trained lengths, with its interval where that has two ends."""
    reach, train_len = claim.reach, claim.series.train_len
    text = f"{'at least ' * reach.censored}{_multiple(claim):.3g}x"
    if with_interval and reach.sure and reach.possible and reach.sure != reach.possible:
        text += f" (95 %: {reach.sure / train_len:.3g}x to {reach.possible / train_len:.3g}x)"
    return text


def _key(series: ResultSeries) -> tuple[str, str]:
    return series.variant, series.where


def _trained(claims: Iterable[Claim]) -> str:
    """Return the trained length in words: a number of tokens if it is one for all."""
    lengths = {claim.series.train_len for claim in claims}
    return f"{lengths.pop()} tokens" if len(lengths) == 1 else "the trained length"


def _model(series: ResultSeries) -> str:
    """Return the name of a row without its method."""
    note = f"({series.note})" if ", " in series.note else series.note
    return " ".join(filter(None, (series.model, note, series.where)))


def _row(series: ResultSeries) -> str:
    return f"{series.name} {series.method}"


def _listed(names: Iterable[str], most: int = MOST) -> str:
    """Join names; more than FEW are cut to the first `most` and a count."""
    every = list(names)
    if len(every) <= FEW:
        return " and ".join(filter(None, (", ".join(every[:-1]), *every[-1:])))
    return f"{', '.join(every[:most])} and {len(every) - most} more"


def _cut(parts: list[str], noun: str) -> list[str]:
    left = len(parts) - GROUPS
    return parts if left <= 0 else [*parts[:GROUPS], f"{counted(left, noun)} more"]
