"""What the heads of a model do at each length: entropy, score size, first tokens, distance.

Of each query i with weights a_ij over the n_i keys it sees, averaged over queries and texts:

    entropy    H_i = -sum_j a_ij ln a_ij, in nats; relative: H_i / ln n_i (1: all keys alike)
    scores     standard deviation over j of the scores before softmax, biases included
    sink       sum over the first 4 keys of a_ij
    distance   sum_j a_ij (i - j), in tokens

A scheme leaves its trained range where these leave their trained values. Where a scheme has
something in place of softmax its weights need not sum to 1; entropy is then of what they are
after division by their sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lexp.attention.chunked import QueryChunk
from lexp.display.document import Chart, Curve, Picture, Point
from lexp.display.table import Table
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.capture import Seen, watched

N_SINKS = 4
MEASURES = {
    "relative_entropy": "entropy / ln(keys in sight)",
    "entropy": "entropy (nats)",
    "scores": "standard deviation of scores",
    "sink": f"weight on the first {N_SINKS} tokens",
    "distance": "mean distance (tokens)",
}


@dataclass(frozen=True)
class Heads(Instrument):
    """Entropy, score size, weight on the first tokens and mean distance of every head."""

    name = "heads"

    def look(self, view: AnalysisInput) -> Measurement:
        """A row for each layer, head and measure."""
        n_layers, n_heads = view.model.dims.n_layers, view.model.dims.n_heads
        sums = torch.zeros(len(MEASURES), n_layers, n_heads, dtype=torch.float64)
        n_queries = 0
        for text in view.texts:
            # The first query sees itself alone: it has no choice to measure.
            n_queries += view.seq_len - 1

            def on_tile(seen: Seen, tile: QueryChunk) -> None:
                sums[:, seen.layer] += measures(tile).sum(-1).cpu()

            watched(view.model, text[None], view.pattern, on_tile, sizes=view.sizes)
        means = (sums / n_queries).tolist()
        rows: list[Row] = [
            {"measure": name, "layer": layer, "head": head, "value": means[n][layer][head]}
            for n, name in enumerate(MEASURES)
            for layer in range(n_layers)
            for head in range(n_heads)
        ]
        return Measurement(tuple(rows))

    def show(self, found: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """A chart of each measure against length: mean over heads, the band their range."""
        charts: list[Table | Chart | Picture] = []
        for measure, words in MEASURES.items():
            curves: dict[tuple[str, str], list[Point]] = {}
            for one in sorted(found, key=lambda f: f.length):
                values = [float(r["value"]) for r in one.finding.rows if r["measure"] == measure]
                mean = sum(values) / len(values)
                point = Point(one.length, mean, min(values), max(values), f"seed {one.seed}")
                curves.setdefault((f"{one.name} s{one.seed}", one.method), []).append(point)
            marks = tuple((float(n), "trained") for n in sorted({f.train_len for f in found}))
            charts.append(
                Chart(
                    f"Heads: {words}", "length (tokens)", words, True, False,
                    tuple(Curve(*key, tuple(points)) for key, points in curves.items()), marks,
                    "Mean over all layers, heads, queries and texts; the band is the heads' range.",
                )
            )  # fmt: skip
        return charts


def measures(tile: QueryChunk) -> Tensor:
    """Every measure of every query of a tile but the text's first, float64 [measures, H, Q]."""
    allowed = tile.allowed
    weights = tile.weights[0].double()
    queries = torch.arange(tile.start, tile.start + weights.shape[1], device=weights.device)
    shares = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum(-1)
    n_keys = allowed.sum(-1).double()
    scores = tile.scores[0].double().masked_fill(~allowed, 0.0)
    mean = scores.sum(-1) / n_keys
    variance = (scores - mean[..., None]).masked_fill(~allowed, 0.0).square().sum(-1) / n_keys
    sink = weights[..., tile.keys < N_SINKS].sum(-1)
    distance = (weights * (queries[:, None] - tile.keys).double()).sum(-1)
    relative = entropy / n_keys.clamp(min=2).log()
    found = torch.stack([relative, entropy, variance.sqrt(), sink, distance])
    return found[..., queries > 0]
