"""The table of perplexity relative to the trained length that stands in for the curves of many."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lexp.display.document import Chart, Curve, Point
from lexp.display.heat import RATIOS
from lexp.display.table import Table, TableCell
from lexp.evaluate import EvalResult
from lexp.report.perplexity_chart import length_curves, results_chart, what_is_shown
from lexp.report.study_results import AS_TRAINED, PLAIN

TITLE = "Perplexity relative to the trained length"
# From so many models on, curves cannot be followed any more.
MANY_MODELS = 10


def results_picture(
    results: Sequence[EvalResult], notes: Mapping[str, str], budgets: Sequence[int] = ()
) -> Chart | Table:
    """Return what shows perplexity by length best: curves, or a heat map of many models.

    budgets: tokens that the runs were trained on.
    """
    ratios = ratio_map(results, notes)
    if ratios is None:
        return results_chart(results, notes, budgets)
    return replace(ratios, title=f"{TITLE} - {what_is_shown(results, budgets)}")


def ratio_map(results: Sequence[EvalResult], notes: Mapping[str, str]) -> Table | None:
    """Show perplexity / perplexity at the trained length, by model and method, best row first.

    None for fewer models than MANY_MODELS, where no model was scored at its trained length, and
    where every length scores tokens of its own: their ratio says nothing.
    notes: by variant, what tells it apart. Rows are sorted by their last column.
    """
    curves = length_curves(results, notes)
    if not results[0].protocol.paired:
        return None
    if len({curve.name for curve, _ in curves}) < MANY_MODELS:
        return None
    lengths = sorted({point.x for curve, _ in curves for point in curve.points})
    rows, starts = [], []
    for curve, train_len in curves:
        start = _start(curve, [other for other, _ in curves], train_len)
        starts.append(start)
        by_length = {point.x: point for point in curve.points}
        cells = [_cell(by_length.get(length), start) for length in lengths]
        rows.append((_rank(by_length, lengths, start), curve, cells))
    if all(map(math.isnan, starts)):
        return None
    rows.sort(key=lambda row: row[0])
    trained = {train_len for _, train_len in curves}
    heads = [
        f"{length:g} (trained)" if trained == {length} else f"{length:g}" for length in lengths
    ]
    note = (
        "Perplexity divided by that of the same model with plain attention at its trained length "
        "(by that of the row itself where plain attention was not scored there). Below 1: better "
        "than at the trained length. Mean over seeds; sorted by the last column."
    )
    return Table(
        f"{TITLE}, {results[0].protocol.label}",
        ("model", "method", *heads),
        tuple(
            (TableCell(curve.name), TableCell(curve.group), *cells) for _, curve, cells in rows
        ),
        2, (note,), secondary=True,
    )  # fmt: skip


def _start(curve: Curve, curves: Sequence[Curve], train_len: int) -> float:
    """Return the perplexity that a row is divided by; NaN if there is none."""
    plain = [c for c in curves if c.name == curve.name and c.group in (*PLAIN, AS_TRAINED)]
    for candidate in (*plain, curve):
        for point in candidate.points:
            if point.x == train_len and math.isfinite(point.y):
                return point.y
    return math.nan


def _rank(by_length: Mapping[float, Point], lengths: Sequence[float], start: float) -> tuple:
    """Return a key to sort rows by: numbers at the last length first, then at those before."""
    ratios = [by_length[n].y / start if n in by_length else math.nan for n in reversed(lengths)]
    return tuple(ratio if math.isfinite(ratio) else math.inf for ratio in ratios)


def _cell(point: Point | None, start: float) -> TableCell:
    if point is None:
        return TableCell("")
    if not math.isfinite(point.y):
        return TableCell(point.note, "failed")
    ratio = point.y / start
    if not math.isfinite(ratio):
        return TableCell("no trained length", "failed")
    text = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}" if ratio < 1e6 else f"{ratio:.0e}"
    return TableCell(text, RATIOS.style(ratio))
