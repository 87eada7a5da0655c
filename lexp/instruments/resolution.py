"""Attention resolution (Sun et al. 2022, "A Length-Extrapolatable Transformer", arXiv 2212.10554).

How clearly attention tells neighbouring distances apart, from s[n], the expected score of a pair at
distance n before softmax (equations 3, 11 and 8):

    R(s)  = sum_{n=0}^{N} e^s[n] (e^s[n] - e^s[n+1]) / (sum_{n=0}^{N} e^s[n])^2
    s^[n] = mean over texts and pairs (i, i - n) of score(i, i - n)             measured
    g[n]  = sum_{c=0}^{d/2-1} cos(n theta_c) zeta_c^n                           theory

theory: zeta = 1 is RoPE, theta = 0 xPos without rotation. s^ is taken of every layer, R of that,
then the mean over layers. The paper leaves open, and every row says how it is here:

    scores       as softmax sees them, q.k / sqrt(d) with the bias; or q.k alone, for models
                 without a bias. R depends on their scale far more than on the scheme.
    heads        R of each head's s^, then the mean; or R of the mean s^ of a layer's heads
    N            the farthest distance in sight; e^s is 0 past it, where there is no key. Under a
                 pattern means are over pairs it allows, and distances it never allows weigh 0

With p = e^s / sum e^s this is sum p[n]^2 - p[n] p[n+1], which is
(p[0]^2 + p[N]^2 + sum (p[n] - p[n+1])^2) / 2 and lies between 0 and 1: 1 where all weight is at one
distance, 1 / (N+1)^2 for constant scores. The paper's Table 3 prints 1.08: its absolute values are
of another scale and cannot be compared.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lexp.attention import layer_pairs
from lexp.attention.chunked import QueryChunk
from lexp.display.document import Chart, Curve, Picture, Point
from lexp.display.table import Table, TableCell
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.capture import LayerInputs, capture_scores
from lexp.instruments.charts import name_with_seed
from lexp.instruments.distances import DistanceMeans, spaced
from lexp.instruments.over_seeds import against_length, finite_mean, trained_marks
from lexp.position import Position
from lexp.system.errors import NotDefined

SOFTMAX, RAW = "q.k / sqrt(d) + bias", "q.k"
EACH, MEAN, THEORY = "each head", "mean of heads", "theory"
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
    "The paper does not state which rows other than LEX used blockwise attention; they are listed "
    "under full.",
    "R by layer, then the mean over layers and seeds. each head: R of each head's curve, then the "
    "mean; mean of heads: R of a layer's mean curve; theory: R of g[n] over the distances in "
    "sight, from each scheme's constants and head size.",
)


@dataclass(frozen=True)
class Resolution(Instrument):
    """Attention resolution R, measured and of the theoretical curve, and s[n] against n."""

    name = "resolution"

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return a row for each R; arrays scores [layers, heads, T], theory [layers, T] or NaN."""
        schemes = layer_schemes(inputs)
        if any(scheme.replaces_softmax for scheme in schemes):
            name = inputs.model.position.title
            raise NotDefined(f"{name} has no scores before softmax that hold its positions")
        sums = DistanceMeans(len(schemes), inputs.model.dims.n_heads, inputs.seq_len)

        def on_chunk(layer: LayerInputs, chunk: QueryChunk) -> None:
            n_queries = chunk.scores.shape[2]
            queries = torch.arange(n_queries, device=chunk.keys.device) + chunk.start
            distance = queries[:, None] - chunk.keys
            sums.add(layer.index, chunk.scores[0], distance, chunk.allowed)

        for text in inputs.texts:
            capture_scores(inputs.model, text[None], inputs.pattern, on_chunk, sizes=inputs.sizes)
        means = sums.means()
        # d as attention divides by it, whatever a scheme makes of the channels.
        root = math.sqrt(inputs.model.dims.head_dim)
        rows = measured_rows(means, SOFTMAX)
        if not any(scheme.has_bias for scheme in schemes):
            rows += measured_rows(means * root, RAW)
        theory = theory_of(inputs, schemes, means)
        for layer, curve in enumerate(theory):
            if torch.isfinite(curve).any():
                for scores, divisor in ((RAW, 1.0), (SOFTMAX, root)):
                    rows.append(row(THEORY, scores, layer, -1, resolution(curve / divisor)))
        return Measurement(tuple(rows), {"scores": means.numpy(), "theory": theory.numpy()})

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return tables of R next to the published values, and charts of R and s[n]."""
        return [*tables(results), *charts(results)]


def resolution(scores: Tensor) -> float:
    """Return R of expected scores s[n], float64 [T]; NaN at distances not in sight."""
    seen = torch.isfinite(scores).nonzero().flatten()
    weights = (scores - scores[seen].max()).exp().nan_to_num(0.0)
    # The farthest key has none behind it.
    following = torch.cat([weights[1:], weights.new_zeros(1)])
    return float((weights * (weights - following)).sum() / weights.sum() ** 2)


def layer_schemes(inputs: AnalysisInput) -> list[Position]:
    """Return the scheme of every layer."""
    schemes = inputs.model.schemes
    return [schemes[n % len(schemes)] for n in range(len(inputs.model.blocks))]


def expected_curve(scheme: Position, length: int, head_dim: int) -> Tensor | None:
    """Return g[n], n = 0 .. length-1, float64, from the scheme's own constants.

    None if the scheme is not rotary, or not the same for all heads.

    Keys are at position 0, so that xPos decays to its true value without overflow.
    """
    distance = torch.arange(length, dtype=torch.float64)
    if scheme.samples_positions or not scheme.relative:
        return None
    factors = scheme.rotary_factors(distance, distance[:1], length)
    if factors is None or factors[0].shape != (length, head_dim // 2):
        return None
    return (factors[0] * factors[1].conj()).real.sum(-1)


def theory_of(inputs: AnalysisInput, schemes: Sequence[Position], means: Tensor) -> Tensor:
    """Return g[n] of each layer at the distances in sight, float64 [layers, T]; NaN elsewhere.

    All NaN under a pattern that moves positions: there a distance has more than one angle.
    """
    curves = torch.full((len(schemes), inputs.seq_len), math.nan, dtype=torch.float64)
    for layer, (pattern, scheme) in enumerate(layer_pairs(inputs.pattern, schemes)):
        if pattern.moves:
            continue
        curve = expected_curve(scheme, inputs.seq_len, inputs.model.dims.head_dim)
        if curve is not None:
            curves[layer] = curve.masked_fill(means[layer, 0].isnan(), math.nan)
    return curves


def measured_rows(means: Tensor, scores: str) -> list[Row]:
    """Return R of every head, and of the heads' mean, from s^ [layers, heads, T]."""
    rows = []
    for layer, heads in enumerate(means):
        rows += [
            row(EACH, scores, layer, h, resolution(scores_of_head))
            for h, scores_of_head in enumerate(heads)
        ]
        rows.append(row(MEAN, scores, layer, -1, resolution(heads.mean(0))))
    return rows


def row(kind: str, scores: str, layer: int, head: int, value: float) -> Row:
    """Return a row: a value of R with its definition; head -1: not of a single head."""
    return {"of": kind, "scores": scores, "layer": layer, "head": head, "value": value}


def tables(results: Sequence[LabelledMeasurement]) -> list[Table]:
    """Show R by model, method and length: one table for each scale of the scores."""
    lengths = sorted({result.length for result in results})
    tables = []
    kinds = list(
        dict.fromkeys(str(r["scores"]) for result in results for r in result.measurement.rows)
    )
    for scores in kinds:
        values: dict[tuple[str, str, str], dict[int, list[float]]] = {}
        models: dict[str, str] = {}
        for result in results:
            kinds_of = list(dict.fromkeys(str(r["of"]) for r in result.measurement.rows))
            for kind in kinds_of:
                mean = r_of(result, kind, scores)
                if mean is not None:
                    models[result.name] = result.model if result.state == "trained" else ""
                    place = values.setdefault((result.name, result.method, kind), {})
                    place.setdefault(result.length, []).append(mean)
        rows = []
        for (name, method, kind), by_length in values.items():
            cells = [mean_text(by_length.get(length, [])) for length in lengths]
            published = PUBLISHED.get((models[name], method)) if kind != "theory" else None
            cells += [f"{x:.2f}†" for x in published] if published else ["", ""]
            muted = "muted" if kind == "theory" else ""
            rows.append(tuple(TableCell(t, muted) for t in (name, method, kind, *cells)))
        heads = ("model", "method", "s[n]", *(f"{n} tokens" for n in lengths), "L †", "2 L †")
        title = f"Attention resolution R of scores {scores}"
        tables.append(Table(title, heads, tuple(rows), 3, NOTES))
    return tables


def r_of(result: LabelledMeasurement, kind: str, scores: str) -> float | None:
    """Return the mean over layers of an R; None if it was not measured."""
    values = [
        float(row["value"])
        for row in result.measurement.rows
        if (row["of"], row["scores"]) == (kind, scores)
    ]
    return float(np.mean(values)) if values else None


def mean_text(values: list[float]) -> str:
    """Format the mean; "" without a value."""
    if not values:
        return ""
    mean = float(np.mean(values))
    return f"{mean:.4f}" if abs(mean) >= 1e-3 else f"{mean:.1e}"


def charts(results: Sequence[LabelledMeasurement]) -> list[Chart]:
    """Draw R against length, and s[n] against n at the longest length: measured, and in theory."""
    items = [r_chart(results)]
    for method in dict.fromkeys(result.method for result in results):
        same = [result for result in results if result.method == method]
        longest = max(result.length for result in same)
        last = [result for result in same if result.length == longest]
        items.append(measured_chart(last, f"{method}, {longest} tokens"))
    longest = max(result.length for result in results)
    items += theory_chart([result for result in results if result.length == longest])
    return items


def r_chart(results: Sequence[LabelledMeasurement]) -> Chart:
    """Draw R of each head against length."""
    return Chart(
        "Attention resolution", "length (tokens)", "R", True, True,
        against_length(results, r_of_heads), trained_marks(results),
        "R of each head's expected scores as softmax sees them, mean over heads and layers; mean "
        "over seeds, the band their range.",
    )  # fmt: skip


def r_of_heads(result: LabelledMeasurement) -> float:
    """Return the mean over heads and layers, of scores as softmax sees them."""
    rows = [r for r in result.measurement.rows if r["of"] == "each head"]
    return finite_mean([float(r["value"]) for r in rows if r["scores"] == rows[0]["scores"]])


def measured_chart(results: Sequence[LabelledMeasurement], of: str) -> Chart:
    """Draw s^[n] of models, means over layers and heads."""
    curves = []
    for result in results:
        mean = np.asarray(result.measurement.arrays["scores"]).mean((0, 1))
        mean = mean[np.isfinite(mean)]
        points = points_by_distance(mean - mean[0])
        end = next((n for n, point in enumerate(points) if point.y < LEAST), len(points))
        curves.append(
            Curve(name_with_seed(result, results), result.method, points[:end], own_x=True)
        )
    return Chart(
        f"Expected scores by distance ({of})", "distance + 1 (tokens)", "s[n] - s[0]", True, False,
        tuple(curves), trained_marks(results),
        f"Mean over layers, heads, texts, pairs and neighbouring distances; to {LEAST:g}.",
    )  # fmt: skip


def theory_chart(results: Sequence[LabelledMeasurement]) -> list[Chart]:
    """Draw g[n] as a share of g[0]; no chart if no scheme has g."""
    curves: dict[str, Curve] = {}
    for result in results:
        theory = np.asarray(result.measurement.arrays["theory"])
        layers = theory[np.isfinite(theory[:, 0])]
        whole = len(layers) and np.isfinite(layers).all()
        if whole and result.name not in curves:
            points = points_by_distance(layers[0] / layers[0, 0])
            curves[result.name] = Curve(result.name, "", points, own_x=True)
    if not curves:
        return []
    return [
        Chart(
            "Expected score curves in theory", "distance + 1 (tokens)", "g[n] / g[0]", True, False,
            tuple(curves.values()), trained_marks(results),
            "g[n] = sum over channel pairs of cos(n theta) zeta^n, from each scheme's constants; "
            "means of neighbouring distances.",
        )
    ]  # fmt: skip


def points_by_distance(values: np.ndarray) -> tuple[Point, ...]:
    """Average values by distance for a log axis: means over ever more distances."""
    starts = spaced(len(values), 4)
    # The last bin ends with the values and is no smaller than the one before it, as far distances
    # have few pairs.
    starts = [*(starts[:-1] if len(starts) > 1 else starts), len(values)]
    return tuple(
        Point((a + b - 1) / 2 + 1, float(values[a:b].mean())) for a, b in itertools.pairwise(starts)
    )
