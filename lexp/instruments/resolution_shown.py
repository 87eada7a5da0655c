"""Tables and charts of attention resolution."""

import itertools
from collections.abc import Sequence

import numpy as np

from lexp.display.document import Chart, Curve, Point
from lexp.display.table import Table, TableCell
from lexp.instruments.base import LabelledMeasurement
from lexp.instruments.distances import spaced
from lexp.instruments.over_seeds import against_length, finite_mean, trained_marks

# Sun et al. 2022, Table 3: trained at 1024 tokens, at once and twice that; by model and method.
PUBLISHED = {
    ("sinusoidal", "full"): (0.87, 0.28),
    ("alibi", "full"): (0.81, 0.88),
    ("rope", "full"): (0.91, 0.08),
    ("xpos", "blockwise"): (0.98, 1.08),
    ("xpos", "full"): (0.98, 0.54),
}
# Charts end where a distance has e^-10 of the weight of the query's own token.
LEAST = -10.0
NOTES = (
    "† Sun et al. 2022, Table 3, trained at 1024 tokens. Not comparable in absolute value: the "
    "formula is bounded by 1 and the table has 1.08, so the scores behind it had another scale. "
    "Which rows but LEX's had blockwise attention is not stated; they stand at full.",
    "R by layer, then the mean over layers and seeds. each head: R of each head's curve, then the "
    "mean; mean of heads: R of a layer's mean curve; theory: R of g[n] over the distances in "
    "sight, from each scheme's constants and head size.",
)


def sheets(found: Sequence[LabelledMeasurement]) -> list[Table]:
    """R by model, method and length: one table for each scale of the scores."""
    lengths = sorted({one.length for one in found})
    made = []
    kinds = list(dict.fromkeys(str(r["scores"]) for one in found for r in one.finding.rows))
    for scores in kinds:
        values: dict[tuple[str, str, str], dict[int, list[float]]] = {}
        models: dict[str, str] = {}
        for one in found:
            of = list(dict.fromkeys(str(r["of"]) for r in one.finding.rows))
            for kind in of:
                mean = r_of(one, kind, scores)
                if mean is not None:
                    models[one.name] = one.model if one.state == "trained" else ""
                    place = values.setdefault((one.name, one.method, kind), {})
                    place.setdefault(one.length, []).append(mean)
        rows = []
        for (name, method, kind), by_length in values.items():
            cells = [number(by_length.get(length, [])) for length in lengths]
            known = PUBLISHED.get((models[name], method)) if kind != "theory" else None
            cells += [f"{x:.2f}†" for x in known] if known else ["", ""]
            muted = "muted" if kind == "theory" else ""
            rows.append(tuple(TableCell(t, muted) for t in (name, method, kind, *cells)))
        heads = ("model", "method", "s[n]", *(f"{n} tokens" for n in lengths), "L †", "2 L †")
        title = f"Attention resolution R of scores {scores}"
        made.append(Table(title, heads, tuple(rows), 3, NOTES))
    return made


def r_of(one: LabelledMeasurement, kind: str, scores: str) -> float | None:
    """The mean over layers of one R; None if it was not taken."""
    values = [
        float(row["value"])
        for row in one.finding.rows
        if (row["of"], row["scores"]) == (kind, scores)
    ]
    return float(np.mean(values)) if values else None


def number(values: list[float]) -> str:
    """The mean with three digits; nothing where there is none."""
    if not values:
        return ""
    mean = float(np.mean(values))
    return f"{mean:.4f}" if abs(mean) >= 1e-3 else f"{mean:.1e}"


def charts(found: Sequence[LabelledMeasurement]) -> list[Chart]:
    """R against length, and s[n] against n at the longest length: measured, and in theory."""
    made = [r_chart(found)]
    for method in dict.fromkeys(one.method for one in found):
        own = [one for one in found if one.method == method]
        longest = max(one.length for one in own)
        last = [one for one in own if one.length == longest]
        made.append(measured_chart(last, f"{method}, {longest} tokens"))
    longest = max(one.length for one in found)
    made += theory_chart([one for one in found if one.length == longest])
    return made


def named(one: LabelledMeasurement, among: Sequence[LabelledMeasurement]) -> str:
    """The model, and its seed where several models have that name."""
    several = len({other.seed for other in among if other.name == one.name}) > 1
    return f"{one.name} s{one.seed}" if several else one.name


def r_chart(found: Sequence[LabelledMeasurement]) -> Chart:
    """R of each head against length."""
    return Chart(
        "Attention resolution", "length (tokens)", "R", True, True,
        against_length(found, r_of_heads), trained_marks(found),
        "R of each head's expected scores as softmax sees them, mean over heads and layers; mean "
        "over seeds, the band their range.",
    )  # fmt: skip


def r_of_heads(one: LabelledMeasurement) -> float:
    """The mean over heads and layers, of scores as softmax sees them."""
    rows = [r for r in one.finding.rows if r["of"] == "each head"]
    return finite_mean([float(r["value"]) for r in rows if r["scores"] == rows[0]["scores"]])


def measured_chart(found: Sequence[LabelledMeasurement], of: str) -> Chart:
    """s^[n] of models, means over layers and heads."""
    curves = []
    for one in found:
        mean = np.asarray(one.finding.arrays["scores"]).mean((0, 1))
        mean = mean[np.isfinite(mean)]
        points = binned(mean - mean[0])
        end = next((n for n, point in enumerate(points) if point.y < LEAST), len(points))
        curves.append(Curve(named(one, found), one.method, points[:end], own_x=True))
    return Chart(
        f"Expected scores by distance ({of})", "distance + 1 (tokens)", "s[n] - s[0]", True, False,
        tuple(curves), trained_marks(found),
        f"Mean over layers, heads, texts, pairs and neighbouring distances; to {LEAST:g}.",
    )  # fmt: skip


def theory_chart(found: Sequence[LabelledMeasurement]) -> list[Chart]:
    """g[n] as a share of g[0]; nothing if no scheme has one."""
    curves: dict[str, Curve] = {}
    for one in found:
        theory = np.asarray(one.finding.arrays["theory"])
        layers = theory[np.isfinite(theory[:, 0])]
        whole = len(layers) and np.isfinite(layers).all()
        if whole and one.name not in curves:
            points = binned(layers[0] / layers[0, 0])
            curves[one.name] = Curve(one.name, "", points, own_x=True)
    if not curves:
        return []
    return [
        Chart(
            "Expected score curves in theory", "distance + 1 (tokens)", "g[n] / g[0]", True, False,
            tuple(curves.values()), trained_marks(found),
            "g[n] = sum over channel pairs of cos(n theta) zeta^n, from each scheme's constants; "
            "means of neighbouring distances.",
        )
    ]  # fmt: skip


def binned(values: np.ndarray) -> tuple[Point, ...]:
    """Values by distance for a logarithmic axis: means of ever more distances each."""
    starts = spaced(len(values), 4)
    # The last bin ends with the values and is no smaller than the one before it, as far distances
    # have few pairs.
    starts = [*(starts[:-1] if len(starts) > 1 else starts), len(values)]
    return tuple(
        Point((a + b - 1) / 2 + 1, float(values[a:b].mean())) for a, b in itertools.pairwise(starts)
    )
