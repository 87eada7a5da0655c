"""Bias of a scheme by distance, and the effective span of its heads.

    curve   b_h(n), n = i - j: the bias of the pair (T-1, T-1-n), the last query of a text, added to
            q.k / sqrt(d). Schemes that read the query's index (FIRE) have another at each length
    span    the least r with sum_{n <= r} w_h(n) >= share, w_h = softmax of b_h over the distances
            in sight: how far a head reaches by position alone, if all contents score alike

for ALiBi with slope m over T keys: w(n) proportional to e^(-m n), so r is the least whole number
with 1 - e^(-m (r+1)) >= share (1 - e^(-m T)); without any bias r = ceil(share T) - 1.
A bias that depends on the input (FoX, CABLE) is averaged over the texts and all pairs at each
distance; it has no span, as softmax of a mean is no mean of softmaxes. Where a pattern moves
positions, distances are still those of the tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lexp.attention import layer_pairs
from lexp.display.document import Chart, Curve, Picture, Point
from lexp.display.table import Table, TableCell
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.capture import (
    LayerInputs,
    capture_scores,
    refuse_selecting,
    refuse_without_attention,
)
from lexp.instruments.charts import name_with_seed
from lexp.instruments.distances import DistanceMeans, spaced
from lexp.model.transformer import Transformer
from lexp.pattern import Full, Pattern
from lexp.position import Position
from lexp.position.base import Bias, Pair
from lexp.system.errors import NotDefined

SHARES = (0.95, 0.99)
# Rows of queries whose biases exist at once, where all pairs are needed, and biases in all.
ROWS, MAX_BIASES = 128, 1 << 20
# A table lists this many heads and layers one by one, and a chart this many curves.
MOST_HEADS, MOST_LAYERS, MOST_CURVES = 8, 4, 32
# Curves end where a distance has e^-10 or e^10 times the weight of the nearest.
MOST = 10.0


@dataclass(frozen=True)
class Curves(Instrument):
    """Bias by distance and effective span of every head."""

    name = "curves"

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return rows of spans and of the bias at spaced distances; array bias [schemes, heads, T].

        One scheme where all layers share it (its layer is `all`). NaN where nothing is in sight.
        """
        schemes = inputs.model.schemes
        refuse_without_attention(inputs.model)
        refuse_without_bias(schemes)
        refuse_selecting(inputs.pattern)
        mean = any(reads_content(scheme, inputs) for scheme in schemes)
        if mean:
            curves = mean_curves(inputs)
        else:
            pairs = layer_pairs(inputs.pattern, schemes)
            curves = torch.stack([fixed_curve(scheme, own, inputs) for own, scheme in pairs])
        # Without softmax a curve still means something, a span does not.
        shares = () if mean or any(scheme.replaces_softmax for scheme in schemes) else SHARES
        rows: list[Row] = []
        for layer, heads in enumerate(curves):
            name = "all" if len(curves) == 1 else layer
            for head, curve in enumerate(heads):
                place: Row = {"layer": name, "head": head}
                for share in shares:
                    reach = span(curve, share)
                    rows.append({"measure": f"span {share:g}", **place, "value": reach})
                for n in spaced(inputs.seq_len, 2):
                    if torch.isfinite(curve[n]):
                        value = float(curve[n])
                        rows.append({"measure": "bias", **place, "distance": n, "value": value})
        return Measurement(tuple(rows), {"bias": curves.numpy()})

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return a table of spans, and for each model a chart of all its heads."""
        spans = span_table(results, SHARES)
        return [*([spans] if spans.rows else []), *charts(results)]


def refuse_without_bias(schemes: Sequence[Position]) -> None:
    """Raise NotDefined if no layer of the model adds a bias to its scores."""
    if any(scheme.has_bias for scheme in schemes):
        return
    name = schemes[0].title
    if any(scheme.replaces_softmax for scheme in schemes):
        raise NotDefined(f"{name} acts on whole rows of scores, it adds nothing by distance alone")
    raise NotDefined(f"{name} adds no bias to scores")


def span(curve: Tensor, share: float) -> int:
    """Return the distance within which softmax of a bias [T] holds a share of its weight."""
    weights = curve.double().nan_to_num(-math.inf).softmax(-1)
    # Sums from the far end, small weights first: what is left outside of each distance.
    outside = weights.flip(-1).cumsum(-1).flip(-1) - weights
    return int((outside <= 1 - share + 1e-12).int().argmax())


def reads_content(scheme: Position, inputs: AnalysisInput) -> bool:
    """Return True if the bias of the scheme depends on the input of the layer."""
    if not scheme.has_bias:
        return False
    shape, like = (1, inputs.seq_len, inputs.model.dims.d_model), next(inputs.model.parameters())
    generator = torch.Generator().manual_seed(0)
    states = [torch.zeros(shape), torch.randn(shape, generator=generator)]
    first, second = (fixed_curve(scheme, Full(), inputs, x.to(like)) for x in states)
    return not torch.equal(first.nan_to_num(0.0), second.nan_to_num(0.0))


def fixed_curve(
    scheme: Position, pattern: Pattern, inputs: AnalysisInput, x: Tensor | None = None
) -> Tensor:
    """Return b_h(n) of the last query, float64 [heads, T]; NaN at distances it does not see."""
    n, n_heads = inputs.seq_len, inputs.model.dims.n_heads
    like = next(inputs.model.parameters())
    x = like.new_zeros(1, n, inputs.model.dims.d_model) if x is None else x
    curve = torch.full((n_heads, n), math.nan, dtype=torch.float64)
    with torch.no_grad():
        bias = scheme.bias(x)
        sampled = sampled_positions(inputs.model, n, like)
        from_zero = scheme.counts_from_zero
        for pair, allowed in grids(pattern, n - 1, n, n_heads, like, sampled, from_zero):
            seen = allowed[0].cpu()
            values = like.new_zeros(()) if bias is None else bias(pair)
            values = values.expand(1, n_heads, *allowed.shape)[0, :, 0]
            curve[:, (pair.i - pair.j)[0].cpu()[seen]] = values.double().cpu()[:, seen]
    return curve


def mean_curves(inputs: AnalysisInput) -> Tensor:
    """Return b_h(n) averaged over texts and pairs, float64 [layers, heads, T]."""
    dims, n = inputs.model.dims, inputs.seq_len
    sums = DistanceMeans(dims.n_layers, dims.n_heads, n)
    rows = max(1, min(ROWS, MAX_BIASES // (dims.n_heads * n)))

    def on_layer(layer: LayerInputs) -> None:
        bias: Bias | None = layer.position.bias(layer.x)
        for start in range(0, n, rows):
            end = min(start + rows, n)
            tile = grids(
                layer.pattern, start, end, dims.n_heads, layer.x, layer.sampled,
                layer.position.counts_from_zero,
            )  # fmt: skip
            for pair, allowed in tile:
                values = layer.x.new_zeros(()) if bias is None else bias(pair)
                values = values.expand(1, dims.n_heads, *allowed.shape)[0]
                sums.add(layer.index, values, pair.i - pair.j, allowed)

    for text in inputs.texts:
        capture_scores(
            inputs.model, text[None], inputs.pattern, on_layer=on_layer, sizes=inputs.sizes
        )
    return sums.means()


def sampled_positions(model: Transformer, length: int, like: Tensor) -> Tensor | None:
    """Return the positions that a forward pass would use; None if they are 0 .. T-1."""
    sampled = model.position.sample_positions(length)
    return None if sampled is None else sampled.to(like.device)


def grids(
    pattern: Pattern, start: int, end: int, n_heads: int, like: Tensor, sampled: Tensor | None,
    from_zero: bool,
) -> list[tuple[Pair, Tensor]]:  # fmt: skip
    """Return pairs of queries start .. end-1 with keys in sight, and the mask of allowed [Q, K].

    One grid for each branch of the pattern, with the positions it gives. from_zero: counted from
    the text's first token, not from the first query.
    """
    device = like.device
    i = torch.arange(start, end, device=device)[:, None]
    pairs = []
    for branch in pattern.branches:
        first, last = branch.keys(start, end)
        if first >= last:
            continue
        j = torch.arange(first, last, device=device)[None]
        if sampled is not None:
            q_pos, k_pos = sampled[i], sampled[j]
        else:
            q_pos, k_pos = branch.q_map(i).double(), branch.k_map(j).double()
        # Counted from the first query float32 is exact.
        origin = torch.zeros_like(q_pos[0, 0]) if from_zero else q_pos.min()
        b = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=device)
        h = torch.arange(n_heads, device=device)[:, None, None]
        q_pos, k_pos = ((t - origin).to(like.dtype) for t in (q_pos, k_pos))
        pair = Pair(b, h, i, j, q_pos, k_pos, pattern.n_keys(i))
        pairs.append((pair, branch.allowed(i, j)))
    return pairs


def span_table(results: Sequence[LabelledMeasurement], shares: Sequence[float]) -> Table:
    """Make a table of the spans of heads by model, method, layer, share and length."""
    lengths = sorted({result.length for result in results})
    spans: dict[tuple[str, ...], dict[int, list[int]]] = {}
    for result in results:
        name = name_with_seed(result, results)
        layers = len(result.measurement.arrays["bias"])
        for share in shares:
            for row in result.measurement.rows:
                if row["measure"] == f"span {share:g}":
                    layer = str(row["layer"]) if layers <= MOST_LAYERS else f"{layers} layers"
                    key = (name, result.method, layer, f"{100 * share:g} %")
                    spans.setdefault(key, {}).setdefault(result.length, []).append(
                        int(row["value"])
                    )
    rows = tuple(
        tuple(TableCell(t) for t in (*key, *(listed(by_length.get(n, [])) for n in lengths)))
        for key, by_length in spans.items()
    )
    notes = (
        "Span: the distance within which softmax(bias) holds the share of the weight if all "
        "contents score alike; head by head, or median (least to greatest) of many heads.",
        "Without any bias: "
        + ", ".join(f"{_uniform(shares[0], n)} of {n}" for n in lengths)
        + f" tokens for {100 * shares[0]:g} %.",
    )
    heads = ("model", "method", "layer", "weight", *(f"{n} tokens" for n in lengths))
    return Table("Span of each head by its bias alone (tokens)", heads, rows, 4, notes)


def _uniform(share: float, length: int) -> int:
    return int(np.ceil(share * length)) - 1


def listed(spans: Sequence[int]) -> str:
    """Write the spans of few heads one by one, of many as median and range."""
    if len(spans) <= MOST_HEADS:
        return " ".join(str(span) for span in spans)
    return f"{np.median(spans):g} ({min(spans)} to {max(spans)})"


def charts(results: Sequence[LabelledMeasurement]) -> list[Chart]:
    """Draw the bias of every head by distance: a chart for each model, where it sees farthest."""
    farthest: dict[str, LabelledMeasurement] = {}
    for result in results:
        name = name_with_seed(result, results)
        if name not in farthest or reach(result) > reach(farthest[name]):
            farthest[name] = result
    return [chart(name, result) for name, result in farthest.items()]


def reach(result: LabelledMeasurement) -> int:
    """Return how many distances are in sight."""
    return int(np.isfinite(result.measurement.arrays["bias"]).any((0, 1)).sum())


def chart(name: str, result: LabelledMeasurement) -> Chart:
    """Draw all heads of one model on one pair of axes."""
    bias = np.asarray(result.measurement.arrays["bias"])
    n_layers, n_heads, length = bias.shape
    layers = list(range(n_layers))
    if n_layers * n_heads > MOST_CURVES:
        layers = sorted({0, n_layers // 2, n_layers - 1})
    curves = []
    for layer in layers:
        group = "" if n_layers == 1 else f"layer {layer}"
        for head in range(n_heads):
            curve = bias[layer, head]
            if np.isfinite(curve).any():
                curves.append(Curve(f"head {head}", group, points_of(curve), own_x=True))
    few = " First, middle and last layer." if len(layers) < n_layers else ""
    return Chart(
        f"Bias of {name} by distance ({result.method}, {length} tokens)", "distance + 1 (tokens)",
        "bias", True, False, tuple(curves), ((float(result.train_len), "trained"),),
        f"Added to q.k / sqrt(d). Curves end {MOST:g} from where they begin.{few}",
    )  # fmt: skip


def points_of(bias: np.ndarray) -> tuple[Point, ...]:
    """Return the points of a head's bias up to a distance of MOST from its first value."""
    seen = np.flatnonzero(np.isfinite(bias))
    far = np.flatnonzero(np.abs(bias - bias[seen[0]]) > MOST)
    end = min(seen[-1] + 1, far[0] if len(far) else len(bias))
    at = [n for n in spaced(int(end), 24) if np.isfinite(bias[n])]
    return tuple(Point(n + 1.0, float(bias[n])) for n in at)
