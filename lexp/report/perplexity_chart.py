"""Perplexity against length as the chart that `lexp eval` leaves as a picture."""

import math

from lexp.display.document import Chart, Curve, Point
from lexp.evaluate import LAST, Cell
from lexp.extension import method_label
from lexp.report.study_results import method_rank


def method_of(cell: Cell) -> str:
    """Return the name of a cell's method, for the legend."""
    return method_label(cell.attention, cell.extension)


def results_chart(cells: list[Cell], notes: dict[str, str]) -> Chart:
    """Cells of one protocol: a name per variant of a model, a group per method, a band over seeds.

    Cells without a number leave a gap: a curve that ends was not defined or failed from there on.
    notes: by variant, what tells it apart.
    """
    several_texts = len({c.text for c in cells}) > 1
    several_precisions = len({c.precision for c in cells}) > 1
    found: dict[str, dict[str, dict[int, list[Cell]]]] = {}
    for cell in cells:
        name = " ".join(filter(None, (cell.model, notes.get(cell.variant))))
        name += "" if cell.step == LAST else f" step {cell.step}"
        name += f" on {cell.dataset} {cell.text}" if several_texts else ""
        name += f" in {cell.precision}" if several_precisions else ""
        by_length = found.setdefault(name, {}).setdefault(method_of(cell), {})
        by_length.setdefault(cell.length, []).append(cell)
    methods = sorted({method_of(cell) for cell in cells}, key=method_rank)
    curves = [
        Curve(name, method, tuple(_point(n, own) for n, own in sorted(by[method].items())))
        for name, by in found.items()
        for method in methods
        if method in by
    ]
    words = [cells[0].protocol, *methods[: len(methods) == 1]]
    return Chart(
        ", ".join(words), "inference length (tokens)", "perplexity per token", True, True,
        tuple(curves), tuple((float(n), "trained") for n in sorted({c.train_len for c in cells})),
    )  # fmt: skip


def _point(length: int, cells: list[Cell]) -> Point:
    """Mean and range over seeds; a gap if one of them has no number."""
    values = [cell.ppl for cell in cells]
    if not all(cell.ok for cell in cells):
        return Point(length, math.nan)
    band = (min(values), max(values)) if len(values) > 1 else (math.nan, math.nan)
    return Point(length, sum(values) / len(values), *band)
