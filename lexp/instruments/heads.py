"""Statistics of attention heads by length: entropy, score size, first tokens, distance.

Of each query i with weights a_ij over the n_i keys it sees, averaged over queries and texts:

    entropy    H_i = -sum_j a_ij ln a_ij, in nats; relative: H_i / ln n_i (1: all keys alike)
    scores     standard deviation over j of the scores before softmax, biases included
    sink       sum over the first 4 keys of a_ij
    distance   sum_j a_ij (i - j), in tokens

A scheme leaves its trained range where these leave their trained values. Where a scheme replaces
softmax, weights need not sum to 1; entropy is then of the weights divided by their sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lexp.attention.chunked import QueryChunk
from lexp.display.document import Chart, Curve, Picture, Point
from lexp.display.table import Table
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.capture import LayerInputs, capture_scores
from lexp.system.errors import NotDefined

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

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return a row for each layer, head and measure."""
        if inputs.seq_len < 2:
            raise NotDefined("heads needs texts of 2 tokens or more: the first sees itself alone")
        n_layers, n_heads = inputs.model.dims.n_layers, inputs.model.dims.n_heads
        sums = torch.zeros(len(MEASURES), n_layers, n_heads, dtype=torch.float64)
        n_queries = 0
        for text in inputs.texts:
            # The first query sees itself alone: it has no choice to measure.
            n_queries += inputs.seq_len - 1

            def on_chunk(layer: LayerInputs, chunk: QueryChunk) -> None:
                sums[:, layer.index] += measures(chunk).sum(-1).cpu()

            capture_scores(inputs.model, text[None], inputs.pattern, on_chunk, sizes=inputs.sizes)
        means = (sums / n_queries).tolist()
        rows: list[Row] = [
            {"measure": name, "layer": layer, "head": head, "value": means[n][layer][head]}
            for n, name in enumerate(MEASURES)
            for layer in range(n_layers)
            for head in range(n_heads)
        ]
        return Measurement(tuple(rows))

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return a chart of each measure against length: mean over heads, the band their range."""
        charts: list[Table | Chart | Picture] = []
        for measure, words in MEASURES.items():
            curves: dict[tuple[str, str], list[Point]] = {}
            for result in sorted(results, key=lambda result: result.length):
                values = [
                    float(r["value"]) for r in result.measurement.rows if r["measure"] == measure
                ]
                mean = sum(values) / len(values)
                point = Point(result.length, mean, min(values), max(values), f"seed {result.seed}")
                curves.setdefault((f"{result.name} s{result.seed}", result.method), []).append(
                    point
                )
            marks = tuple(
                (float(n), "trained") for n in sorted({result.train_len for result in results})
            )
            charts.append(
                Chart(
                    f"Heads: {words}", "length (tokens)", words, True, False,
                    tuple(Curve(*key, tuple(points)) for key, points in curves.items()), marks,
                    "Mean over all layers, heads, queries and texts; the band is the heads' range.",
                )
            )  # fmt: skip
        return charts


def measures(chunk: QueryChunk) -> Tensor:
    """Return every measure of a chunk's queries, without the text's first, [measures, H, Q]."""
    allowed = chunk.allowed
    weights = chunk.weights[0].double()
    queries = torch.arange(chunk.start, chunk.start + weights.shape[1], device=weights.device)
    shares = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum(-1)
    n_keys = allowed.sum(-1).double()
    scores = chunk.scores[0].double().masked_fill(~allowed, 0.0)
    mean = scores.sum(-1) / n_keys
    variance = (scores - mean[..., None]).masked_fill(~allowed, 0.0).square().sum(-1) / n_keys
    sink = weights[..., chunk.keys < N_SINKS].sum(-1)
    distance = (weights * (queries[:, None] - chunk.keys).double()).sum(-1)
    relative = entropy / n_keys.clamp(min=2).log()
    values = torch.stack([relative, entropy, variance.sqrt(), sink, distance])
    return values[..., queries > 0]
