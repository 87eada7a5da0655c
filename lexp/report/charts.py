"""Make the charts of a report from losses."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lexp.display.document import Chart, Curve, Point
from lexp.display.table import Table
from lexp.report.claims import mean_losses
from lexp.report.differences_chart import differences_chart
from lexp.report.perplexity_chart import what_is_shown
from lexp.report.published import load_published, overlay
from lexp.report.ratio_map import ratio_map
from lexp.report.study_results import DocumentIds, ResultSeries
from lexp.scoring.losses import perplexity
from lexp.statistics import TokenLosses, by_context, geometric_edges, mean
from lexp.system.output import Tally


def length_items(all_series: Sequence[ResultSeries], baseline: str) -> list[Chart | Table]:
    """Return what shows loss by length first: perplexities, and differences to the baseline.

    The curves of many models are a heat map instead. Why differences are not drawn is a note.
    """
    results = [result for series in all_series for result in series.every_result]
    notes = {series.variant: series.note for series in all_series}
    ratios = ratio_map(results, notes)
    differences = differences_chart(all_series, baseline)
    first = ratios or length_chart(all_series)
    if isinstance(differences, Chart):
        return [first, differences]
    if isinstance(first, Table):
        return [replace(first, notes=(*first.notes, differences))]
    return [replace(first, note=f"{first.note} {differences}")]


def length_chart(all_series: Sequence[ResultSeries]) -> Chart:
    """Draw perplexity against length, mean over seeds, with intervals over documents."""
    ids, curves = DocumentIds(), []
    tally = Tally("intervals", sum(len(series.lengths) for series in all_series))
    for series in all_series:
        points = []
        for length, losses in mean_losses(series, ids).items():
            if not isinstance(losses, TokenLosses):
                points.append(Point(length, math.nan, note=losses))
                continue
            estimate = mean(losses.nats, losses.document)
            tally.advance()
            low, value, high = (_ppl(x) for x in (estimate.low, estimate.value, estimate.high))
            by_seed = series.results[length]
            seeds = ", ".join(f"{seed}: {r.ppl:.2f}" for seed, r in by_seed.items())
            note = f"seeds {seeds}" if len(by_seed) > 1 else ""
            points.append(Point(length, value, low, high, note))
        curves.append(Curve(series.name, series.method, tuple(points)))
    marks = tuple(
        (float(n), "trained") for n in sorted({series.train_len for series in all_series})
    )
    return Chart(
        f"Perplexity by context length - {_what(all_series)}",
        "context length (tokens)",
        "perplexity per token", True, True, tuple(curves), marks,
        "Mean over seeds. Point at a curve to see its 95 % intervals over documents.", True,
        decimals=2,
    )  # fmt: skip


def position_chart(all_series: Sequence[ResultSeries]) -> Chart:
    """Draw the loss of single tokens by context length, at the longest length of each series."""
    curves = []
    for series in all_series:
        good = [length for length in series.lengths if not series.failure(length)]
        if not good:
            continue
        edges = geometric_edges(max(good), per_octave=3)
        if len(edges) > 2 and edges[-1] - edges[-2] < (edges[-2] - edges[-3]) / 2:
            edges = np.delete(edges, -2)  # a last bin of a few tokens would be noise
        by_bin: list[list[float]] = [[] for _ in edges[1:]]
        for result in series.results[max(good)].values():
            losses = result.losses()
            context: np.ndarray = losses.context.astype(np.int64)
            bins = by_context(losses.nats, losses.document, context, edges, draws=1)
            for n, estimate in enumerate(bins):
                by_bin[n].append(estimate.loss.value if estimate.n_tokens else math.nan)
        points = [
            Point(math.sqrt(float(first) * float(below - 1)), sum(values) / len(values),
                  note=f"context {first} to {below - 1}")
            for first, below, values in zip(edges[:-1], edges[1:], by_bin, strict=True)
            if all(math.isfinite(v) for v in values)
        ]  # fmt: skip
        curves.append(
            Curve(series.name, f"{series.method} at {max(good)}", tuple(points), own_x=True)
        )
    marks = tuple(
        (float(n), "trained") for n in sorted({series.train_len for series in all_series})
    )
    return Chart(
        f"Loss by tokens before the target - {_what(all_series)}",
        "tokens before the target in its window",
        "nats per token", True, False, tuple(curves), marks,
        "Mean over seeds of all targets with that much context; three bins per octave.",
        decimals=4,
    )  # fmt: skip


def published_chart(all_series: Sequence[ResultSeries]) -> Chart | None:
    """Draw curves relative to the trained length beside printed curves of the same schemes.

    None where no paper has one of these models.
    """
    models = {series.model for series in all_series}
    rows = [row for row in load_published() if row.model in models]
    if not rows:
        return None
    ids, curves = DocumentIds(), []
    for series in all_series:
        means = mean_losses(series, ids)
        trained = means.get(series.train_len)
        if series.model not in {row.model for row in rows} or not isinstance(trained, TokenLosses):
            continue
        start = float(trained.nats.mean(dtype=np.float64))
        points = tuple(
            Point(
                length / series.train_len, _ppl(float(losses.nats.mean(dtype=np.float64)) - start)
            )
            for length, losses in means.items()
            if isinstance(losses, TokenLosses)
        )
        curves.append(Curve(series.name, f"ours, {series.method}", points, own_x=True))
    curves += overlay(rows, all_series[0].train_len)
    return Chart(
        "Comparison with published curves", "length / trained length",
        "perplexity / perplexity at the trained length", True, True, tuple(curves),
        ((1.0, "trained"),),
        "Ratios, because perplexities of other texts, sizes and vocabularies cannot be compared. "
        "The note of each published curve names its protocol and text.",
        decimals=4,
    )  # fmt: skip


def _what(all_series: Sequence[ResultSeries]) -> str:
    return what_is_shown([result for series in all_series for result in series.every_result])


def _ppl(nll: float) -> float:
    return perplexity(nll) if math.isfinite(nll) else nll
