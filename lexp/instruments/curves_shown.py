"""The table of spans and the charts of biases by distance."""

from collections.abc import Sequence

import numpy as np

from lexp.display.document import Chart, Curve, Point
from lexp.display.table import Table, TableCell
from lexp.instruments.base import LabelledMeasurement
from lexp.instruments.distances import spaced

# A table lists this many heads and layers one by one, and a chart this many curves.
MOST_HEADS, MOST_LAYERS, MOST_CURVES = 8, 4, 32
# Curves end where a distance has e^-10 or e^10 times the weight of the nearest.
MOST = 10.0


def sheet(found: Sequence[LabelledMeasurement], shares: Sequence[float]) -> Table:
    """Spans of all heads by model, method, layer, share and length."""
    lengths = sorted({one.length for one in found})
    spans: dict[tuple[str, ...], dict[int, list[int]]] = {}
    for one in found:
        name = named(one, found)
        layers = len(one.finding.arrays["bias"])
        for share in shares:
            for row in one.finding.rows:
                if row["measure"] == f"span {share:g}":
                    layer = str(row["layer"]) if layers <= MOST_LAYERS else f"{layers} layers"
                    key = (name, one.method, layer, f"{100 * share:g} %")
                    spans.setdefault(key, {}).setdefault(one.length, []).append(int(row["value"]))
    rows = tuple(
        tuple(TableCell(t) for t in (*key, *(listed(by_length.get(n, [])) for n in lengths)))
        for key, by_length in spans.items()
    )
    notes = (
        "The distance within which softmax(bias) holds that share of the weight for equal "
        "contents, head by head, or of many heads: median (least to greatest).",
        "Without any bias: "
        + ", ".join(f"{_uniform(shares[0], n)} of {n}" for n in lengths)
        + f" tokens for {100 * shares[0]:g} %.",
    )
    heads = ("model", "method", "layer", "weight", *(f"{n} tokens" for n in lengths))
    return Table("Span of each head by its bias alone (tokens)", heads, rows, 4, notes)


def _uniform(share: float, length: int) -> int:
    return int(np.ceil(share * length)) - 1


def listed(spans: Sequence[int]) -> str:
    """Spans of few heads one by one, of many as median and range."""
    if len(spans) <= MOST_HEADS:
        return " ".join(str(span) for span in spans)
    return f"{np.median(spans):g} ({min(spans)} to {max(spans)})"


def named(one: LabelledMeasurement, among: Sequence[LabelledMeasurement]) -> str:
    """The model, and its seed where several models have that name."""
    several = len({other.seed for other in among if other.name == one.name}) > 1
    return f"{one.name} s{one.seed}" if several else one.name


def charts(found: Sequence[LabelledMeasurement]) -> list[Chart]:
    """The bias of every head by distance: a chart for each model, where it sees farthest."""
    farthest: dict[str, LabelledMeasurement] = {}
    for one in found:
        name = named(one, found)
        if name not in farthest or reach(one) > reach(farthest[name]):
            farthest[name] = one
    return [chart(name, one) for name, one in farthest.items()]


def reach(one: LabelledMeasurement) -> int:
    """How many distances are in sight."""
    return int(np.isfinite(one.finding.arrays["bias"]).any((0, 1)).sum())


def chart(name: str, one: LabelledMeasurement) -> Chart:
    """All heads of one model on one pair of axes."""
    bias = np.asarray(one.finding.arrays["bias"])
    n_layers, n_heads, length = bias.shape
    layers = list(range(n_layers))
    if n_layers * n_heads > MOST_CURVES:
        layers = sorted({0, n_layers // 2, n_layers - 1})
    curves = []
    for layer in layers:
        group = "" if n_layers == 1 else f"layer {layer}"
        for head in range(n_heads):
            own = bias[layer, head]
            if np.isfinite(own).any():
                curves.append(Curve(f"head {head}", group, points_of(own), own_x=True))
    few = " First, middle and last layer." if len(layers) < n_layers else ""
    return Chart(
        f"Bias of {name} by distance ({one.method}, {length} tokens)", "distance + 1 (tokens)",
        "bias", True, False, tuple(curves), ((float(one.train_len), "trained"),),
        f"Added to q.k / sqrt(d). Curves end {MOST:g} from where they begin.{few}",
    )  # fmt: skip


def points_of(bias: np.ndarray) -> tuple[Point, ...]:
    """A head's curve as far as it is within MOST of its first value."""
    seen = np.flatnonzero(np.isfinite(bias))
    far = np.flatnonzero(np.abs(bias - bias[seen[0]]) > MOST)
    end = min(seen[-1] + 1, far[0] if len(far) else len(bias))
    at = [n for n in spaced(int(end), 24) if np.isfinite(bias[n])]
    return tuple(Point(n + 1.0, float(bias[n])) for n in at)
