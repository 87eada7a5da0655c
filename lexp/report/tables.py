"""Make the tables of a report from series of results: one protocol per table, failures in cells."""

import math
from collections.abc import Sequence
from typing import Protocol

from lexp.display.table import Table, TableCell
from lexp.report.claims import Claim, seed_losses
from lexp.report.perplexity_table import perplexity_text
from lexp.report.study_results import DocumentIds, ResultSeries, is_alike
from lexp.scoring.losses import perplexity
from lexp.statistics import (
    BETTER,
    Estimate,
    across,
    average,
    difference,
    holm,
    last,
    mean,
    sign_flips,
)
from lexp.system.text import counted

LABELS = ("model", "method")


class MethodResult(Protocol):
    """A result of a model under a method at a length."""

    @property
    def length(self) -> int: ...

    @property
    def method(self) -> str: ...

    @property
    def failure(self) -> str: ...


def labels(series: ResultSeries) -> tuple[TableCell, TableCell]:
    """Return what names a row in every table."""
    return TableCell(series.name), TableCell(series.method)


def last_tokens_table(all_series: Sequence[ResultSeries], k: int) -> Table:
    """Show perplexity over the last k tokens of each window, by length.

    A mean over all tokens hides where a model stops extrapolating.
    """
    lengths = sorted({length for series in all_series for length in series.lengths})
    rows = []
    for series in all_series:
        fields = list(labels(series))
        for length in lengths:
            if length not in series.results or length < k:
                fields.append(TableCell(""))
            elif failure := series.short_failure(length):
                fields.append(TableCell(failure, "failed"))
            else:
                fields.append(TableCell(perplexity_text(perplexity(_last_nll(series, length, k)))))
        rows.append(tuple(fields))
    note = (
        f"Targets with more than length - {k} tokens before them, mean over seeds. A cell without "
        "any target is empty."
    )
    heads = (*LABELS, *map(str, lengths))
    title = f"Perplexity of the last {k} tokens of a window, {all_series[0].protocol.label}"
    return Table(title, heads, tuple(rows), 2, (note,))


def _last_nll(series: ResultSeries, length: int, k: int) -> float:
    """Return the loss of the last k tokens, mean over seeds."""
    values = []
    for result in series.results[length].values():
        losses = result.losses()
        of_last = last(losses.nats, losses.document, losses.context, length, k, draws=1)
        values.append(of_last.value)
    return sum(values) / len(values)


def reach_table(claims: Sequence[Claim]) -> Table:
    """Show how far each series holds its loss, and whether a window does as well."""
    rows, windows = [], False
    for claim in claims:
        reach, window = claim.reach, claim.window
        at = f"{claim.at_window}" if claim.at_window else ""
        windows |= window is not None
        beaten = window is not None and window.verdict == BETTER
        rows.append(
            (
                *labels(claim.series),
                TableCell(_length(reach.length, reach.censored), "" if reach.length else "failed"),
                TableCell(_between(reach.sure, reach.possible)),
                TableCell(", ".join(_length(r.length, r.censored) for r in claim.seeds.values())),
                TableCell(_with_interval(claim.gain) if claim.gain else ""),
                TableCell(at),
                TableCell(_with_interval(window.difference) if window else ""),
                TableCell(window.verdict if window else "", "best" if beaten else ""),
            )
        )
    series, reach = claims[0].series, claims[0].reach
    reasons = sorted({f"{c.series.name} {c.series.method}: {c.reach.reason}" for c in claims
                      if c.reach.reason})  # fmt: skip
    notes = (
        f"Reach: the longest length, in tokens, up to which the loss on the same tokens is at most "
        f"{reach.delta:g} nats per token above the loss at the trained length; ≥: the longest "
        f"length tested. The {reach.level:.0%} interval follows from the interval of the paired "
        "difference (documents resampled, mean over seeds).",
        "Gain: nats per token saved by context beyond the trained length, at the reach.",
        "Against the window: loss minus the loss of the same model under a sliding window of the "
        "trained length, at the longest length both have. Only a value below 0 can come from "
        "longer context; a pattern that sees no more than the window (blockwise) can be below 0 "
        "for other reasons."
        if windows
        else "No sliding window was scored for comparison; add attention=window to `lexp eval`.",
        *reasons,
    )
    heads = (
        *LABELS, "reach", "interval", "each seed", "gain", "at", "against window", "verdict",
    )  # fmt: skip
    return Table(f"Reach and gain, {series.protocol.label}", heads, tuple(rows), 2, notes)


def differences_table(
    all_series: Sequence[ResultSeries], length: int, baseline: str
) -> Table | None:
    """Show paired differences of models to a baseline at a length, by method; None if none."""
    pairs = [
        (series, base)
        for base in all_series
        for series in all_series
        if base.name == baseline and series.method == base.method and series is not base
    ]
    family = f"models against {baseline} at {length}, every method"
    return _paired_table(f"Differences at {length}", pairs, length, baseline, family)


def methods_table(all_series: Sequence[ResultSeries], length: int) -> Table | None:
    """Show paired differences of each model's methods to its plain attention; None if none."""
    pairs = [
        (series, base)
        for base in all_series
        for series in all_series
        if base.is_plain
        and series is not base
        and (series.variant, series.where) == (base.variant, base.where)
    ]
    plain = pairs[0][1].pattern.label if pairs else ""
    family = f"methods against {plain} attention at {length}"
    return _paired_table(f"Differences of methods at {length}", pairs, length, plain, family)


def _paired_table(
    title: str,
    pairs: Sequence[tuple[ResultSeries, ResultSeries]],
    length: int,
    other: str,
    family: str,
) -> Table | None:
    """Show what the first of each pair loses above the second; None if no pair compares."""
    ids, rows, tests, unlike = DocumentIds(), [], [], []
    for series, base in pairs:
        if not (series.has_number(length) and base.has_number(length)):
            continue
        if not (is_alike(series, base) and series.same_targets(length, base, length)):
            unlike.append(f"{series.name} {series.method}")
            continue
        ours, theirs = (average(seed_losses(n, length, ids)) for n in (series, base))
        d = difference(ours, theirs)
        tests.append((series, mean(d.nats, d.document), sign_flips(d)))
    if not tests:
        return None
    corrected = holm({str(n): test.p for n, (_, _, test) in enumerate(tests)}, family)
    by_number = {test.name: test.adjusted for test in corrected}
    for n, (series, estimate, test) in enumerate(tests):
        adjusted = by_number[str(n)]
        sure = adjusted < 0.05
        rows.append(
            (
                *labels(series),
                TableCell(_with_interval(estimate), "best" if sure and estimate.value < 0 else ""),
                TableCell(f"{test.p:.4f}"),
                TableCell(f"{adjusted:.4f}"),
            )
        )
    _, _, test = tests[0]
    how = "all" if test.exact else "at random"
    notes = (
        f"Nats per token above {other} on the same tokens, mean over seeds, with a 95 % "
        "interval over documents. p by flipping the sign of whole documents "
        f"({how} {test.n_flips}; the smallest possible is {test.smallest_p:.4f}); Holm's "
        f"correction over {counted(len(tests), 'comparison')} ({family}). Seeds are held fixed.",
        *[f"Not compared, scored on other tokens: {', '.join(unlike)}."] * bool(unlike),
    )
    heads = (*LABELS, f"minus {other}", "p", "p (Holm)")
    protocol = pairs[0][0].protocol.label
    return Table(f"{title}, {protocol}", heads, tuple(rows), 2, notes)


def seeds_table(all_series: Sequence[ResultSeries], length: int) -> Table | None:
    """Show mean loss at a length, both intervals and every seed; None with one seed everywhere."""
    if all(len(series.seeds) < 2 for series in all_series):
        return None
    ids, rows = DocumentIds(), []
    for series in (n for n in all_series if n.has_number(length)):
        spread = across(seed_losses(series, length, ids))
        over_seeds, over_documents = spread.over_seeds, spread.over_documents
        rows.append(
            (
                *labels(series),
                TableCell(f"{spread.mean:.4f}"),
                TableCell(_interval(over_seeds.low, over_seeds.high)),
                TableCell(_interval(over_documents.low, over_documents.high)),
                TableCell(", ".join(f"{n}: {v:.4f}" for n, v in zip(spread.numbers, spread.seeds,
                                                               strict=True))),
            )
        )  # fmt: skip
    notes = (
        "Nats per token. Over seeds: Student's t interval, documents held fixed. Over documents: "
        "documents resampled jointly for all seeds, runs held fixed. Neither interval contains the "
        "other source of variation.",
    )
    heads = (*LABELS, "mean", "95 % over seeds", "95 % over documents", "each seed")
    title = f"Seeds at {length}, {all_series[0].protocol.label}"
    return Table(title, heads, tuple(rows), 2, notes, secondary=True)


def failures_table(
    all_series: Sequence[ResultSeries], others: Sequence[tuple[MethodResult, str, str]] = ()
) -> Table | None:
    """Show every cell without a number and the reason; None if there is none.

    others: failed results that are no evaluations, each with its variant and what was asked.
    """
    rows: list[tuple[TableCell, ...]] = []
    for series in all_series:
        reasons: dict[str, list[int]] = {}
        for length in series.lengths:
            if failure := series.failure(length):
                reasons.setdefault(failure, []).append(length)
        for reason, lengths in reasons.items():
            at = ", ".join(map(str, lengths))
            rows.append(
                (
                    *labels(series),
                    TableCell(series.protocol.label),
                    TableCell(at),
                    TableCell(reason, "failed"),
                )
            )
    for result, name, asked in others:
        words = (name, result.method, asked, str(result.length))
        rows.append((*map(TableCell, words), TableCell(result.failure, "failed")))
    heads = (*LABELS, "protocol", "lengths", "reason")
    return Table("Cells without a number", heads, tuple(rows), 5) if rows else None


def cost_table(all_series: Sequence[ResultSeries]) -> Table:
    """Show seconds of each series, and microseconds per scored token by length."""
    lengths = sorted({length for series in all_series for length in series.lengths})
    rows = []
    for series in all_series:
        results = series.every_result
        fields = [*labels(series), TableCell(f"{sum(r.seconds for r in results):.1f}")]
        for length in lengths:
            timed = [r for r in results if r.length == length and r.ok and r.seconds]
            spent, tokens = sum(r.seconds for r in timed), sum(r.tokens for r in timed)
            fields.append(TableCell(f"{1e6 * spent / tokens:.0f}" if timed else ""))
        rows.append(tuple(fields))
    note = "Wall-clock time, with whatever else the machine did; empty where another pass gave it."
    heads = (*LABELS, "seconds", *(f"µs/token at {length}" for length in lengths))
    title = f"Cost, {all_series[0].protocol.label}"
    return Table(title, heads, tuple(rows), 2, (note,), secondary=True)


def _with_interval(estimate: Estimate) -> str:
    """Return an estimate with its sign, and its interval if it has one."""
    if not math.isfinite(estimate.low):
        return f"{estimate.value:+.4f}"
    return f"{estimate.value:+.4f} [{estimate.low:+.4f}, {estimate.high:+.4f}]"


def _interval(low: float, high: float) -> str:
    return f"{low:.4f} to {high:.4f}" if math.isfinite(low) else "-"


def _length(length: int | None, censored: bool) -> str:
    return "n/a" if length is None else f"≥ {length}" if censored else str(length)


def _between(sure: int | None, possible: int | None) -> str:
    return "-" if sure is None or possible is None else f"{sure} to {possible}"
