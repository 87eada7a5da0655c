"""Make the tables of a report from series of results: one protocol per table, failures in cells."""

import math
from collections.abc import Sequence
from typing import Protocol

from lexp.display.table import Table, TableCell
from lexp.report.claims import Claim, seed_losses
from lexp.report.numbers import LABELS, interval_text, labels
from lexp.report.perplexity_table import perplexity_text
from lexp.report.study_results import DocumentIds, ResultSeries
from lexp.scoring.losses import perplexity
from lexp.statistics import (
    BETTER,
    across,
    last,
)


class MethodResult(Protocol):
    """A result of a model under a method at a length."""

    @property
    def length(self) -> int:
        """Return the number of tokens that are read at most."""
        ...

    @property
    def method(self) -> str:
        """Return the name of the method in tables."""
        ...

    @property
    def failure(self) -> str:
        """Return why there is no number; empty if there is one."""
        ...


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
    """Show how far each series holds its loss, and whether a window does as well.

    Columns that would say nothing are left out: the verdict where no window was scored, intervals
    that are all one length, seeds where there is one.
    """
    rows = [(*labels(claim.series), *_claim_cells(claim)) for claim in claims]
    heads = (*LABELS, "verdict", "reach", "interval", "each seed", "gain", "at", "against window")
    reaches = [claim.reach for claim in claims]
    has_ends = any(r.sure is not None for r in reaches)
    has_interval = has_ends and any(r.sure != r.length or r.possible != r.length for r in reaches)
    kept = [
        n
        for n, head in enumerate(heads)
        if head in (*LABELS, "reach")
        or (any(row[n].text for row in rows) and (head != "interval" or has_interval))
    ]
    windows = any(claim.window for claim in claims)
    reasons = sorted({f"{c.series.name} {c.series.method}: {c.reach.reason}" for c in claims
                      if c.reach.reason})  # fmt: skip
    level = f"{reaches[0].level:.0%}".replace("%", " %")
    interval = (
        f"The {level} interval follows from the interval of the paired difference (documents "
        "resampled, mean over seeds)."
        if has_interval
        else f"Both ends of every {level} interval are the reach itself."
        if has_ends
        else "There are no intervals."
    )
    notes = (
        f"Reach: the longest length, in tokens, up to which the loss on the same tokens is at most "
        f"{reaches[0].delta:g} nats per token above the loss at the trained length; ≥: the longest "
        f"length tested. {interval}",
        "Gain: nats per token saved by context beyond the trained length, at the reach.",
        "Against the window: loss minus the loss of the same model under a sliding window of the "
        "trained length, at the longest length both have. Only a value below 0 can come from "
        "longer context; a pattern that sees no more than the window (blockwise) can be below 0 "
        "for other reasons."
        if windows
        else "No sliding window was scored for comparison; add attention=window to `lexp eval`.",
        *reasons,
    )
    return Table(
        f"Reach and gain, {claims[0].series.protocol.label}",
        tuple(heads[n] for n in kept),
        tuple(tuple(row[n] for n in kept) for row in rows),
        2,
        notes,
    )


def _claim_cells(claim: Claim) -> tuple[TableCell, ...]:
    """Return the cells from the verdict on."""
    reach, window = claim.reach, claim.window
    beaten = window is not None and window.verdict == BETTER
    return (
        TableCell(window.verdict if window else "", "best" if beaten else ""),
        TableCell(_length(reach.length, reach.censored), "" if reach.length else "failed"),
        TableCell(_between(reach.sure, reach.possible)),
        TableCell(", ".join(_length(r.length, r.censored) for r in claim.seeds.values())),
        TableCell(interval_text(claim.gain) if claim.gain else ""),
        TableCell(f"{claim.at_window}" if claim.at_window else ""),
        TableCell(interval_text(window.difference) if window else ""),
    )


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
    """Show seconds of each series at all lengths, and microseconds per scored token by length."""
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
    note = (
        "By length: microseconds per scored token; empty where another pass gave it. Seconds: of "
        "all lengths together. Wall-clock time, with whatever else the machine did."
    )
    heads = (*LABELS, "seconds", *map(str, lengths))
    title = f"Cost, {all_series[0].protocol.label}"
    return Table(title, heads, tuple(rows), 2, (note,), secondary=True)


def _interval(low: float, high: float) -> str:
    return f"{low:.4f} to {high:.4f}" if math.isfinite(low) else "-"


def _length(length: int | None, censored: bool) -> str:
    return "n/a" if length is None else f"≥ {length}" if censored else str(length)


def _between(sure: int | None, possible: int | None) -> str:
    if sure is None or possible is None:
        return "-"
    return f"{sure}" if sure == possible else f"{sure} to {possible}"
