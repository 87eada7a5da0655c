"""Translation invariance: how far scores depend on distance alone (Toeplitz R^2).

Over the pairs j < i that the pattern allows, of one layer, head and text,

    R^2 = 1 - sum_ij (s_ij - g(i - j))^2 / sum_ij (s_ij - m)^2

s: scores before softmax, biases included; g(delta): the mean of all s with i - j = delta; m: the
mean of all s. Every pair weighs the same, so distance delta weighs as its n - delta pairs do. One
shared mean is taken off, never one per position, which would take the signal with it. R^2 is taken
of each text and then averaged. Pure noise has (distances - 1) / (pairs - 1), 0.008 at 256 tokens;
scores that are all the same have none (NaN). After the Toeplitz fit of Wennberg and Henter 2021
(TISA, arXiv 2106.01950), which is of position embeddings; of scores it is on causal models.

Where the scheme adds embeddings P to the tokens, also, over all pairs j < i,

    gram       P P^T
    position   (P' W_q) (P' W_k)^T of each head of the first layer

P': P through the first norm but for the division by its standard deviation (RMSNorm: by its root
mean square), which the token has a part in. With QK-norm there is no such term: it divides by the
length of queries and keys, to which the token adds. Deeper layers see no P that could be told from
what earlier ones made of it.
A scheme that replaces softmax may change scores further there; this is not measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lexp.attention import ChunkSizes
from lexp.attention.chunked import QueryChunk
from lexp.attention.heads import for_each_query
from lexp.display.document import Chart, Picture
from lexp.display.png import heat_maps
from lexp.display.table import Table, TableCell
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.capture import LayerInputs, capture_scores
from lexp.instruments.over_seeds import (
    against_length,
    by_kind,
    finite_mean,
    in_order,
    longest_of_each,
    trained_marks,
)
from lexp.instruments.position_embeddings import position_embeddings
from lexp.model.mixer import Attention
from lexp.model.mixer.attention import NoQKNorm
from lexp.model.transformer import Block
from lexp.system.errors import NotDefined
from lexp.system.text import counted


@dataclass
class Diagonals:
    """Count, mean and sum of squared deviations of the values at each distance, by head.

    Batches are merged as Chan, Golub and LeVeque (1983) do: no sum of squares of raw values, which
    would lose its digits where scores are large beside their spread. All [H, T], float64.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def empty(cls, n_heads: int, seq_len: int, device: torch.device) -> "Diagonals":
        """Return diagonals without a value."""
        shape = n_heads, seq_len
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(3)))

    def add(self, values: Tensor, distance: Tensor) -> None:
        """Add values [H, N] at distances [N]."""
        values = values.double()
        index = distance.expand(values.shape)
        zeros = torch.zeros_like(self.mean)
        count = zeros.scatter_add(1, index, torch.ones_like(values))
        mean = zeros.scatter_add(1, index, values) / count.clamp(min=1)
        squares = zeros.scatter_add(1, index, (values - mean.gather(1, index)).square())
        both = self.count + count
        apart = mean - self.mean
        self.squares += squares + apart.square() * self.count * count / both.clamp(min=1)
        self.mean += apart * count / both.clamp(min=1)
        self.count = both

    def r2(self) -> Tensor:
        """Return R^2 of the mean of each distance, [H]; NaN where nothing varies."""
        overall = (self.count * self.mean).sum(-1, keepdim=True) / self.count.sum(-1, keepdim=True)
        between = (self.count * (self.mean - overall).square()).sum(-1)
        within = self.squares.sum(-1)
        # What float64 makes of equal values counts as equal.
        rounding = (self.count * overall.square()).sum(-1) * 1e-28
        varies = between + within > rounding
        return torch.where(varies, between / (between + within), math.nan)


@dataclass(frozen=True)
class Invariance(Instrument):
    """Toeplitz R^2 of the scores of every head, and of position embeddings where there are some."""

    name = "invariance"

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return a row for each layer and head: `scores`; `gram`, `position` where defined."""
        if inputs.seq_len < 3:
            raise NotDefined("translation invariance needs texts of 3 tokens or more")
        n_layers, n_heads = inputs.model.dims.n_layers, inputs.model.dims.n_heads
        per_text = []
        for text in inputs.texts:
            layers = [
                Diagonals.empty(n_heads, inputs.seq_len, inputs.texts.device)
                for _ in range(n_layers)
            ]

            def on_chunk(
                layer: LayerInputs, chunk: QueryChunk, layers: list[Diagonals] = layers
            ) -> None:
                queries = torch.arange(chunk.start, chunk.start + chunk.scores.shape[2])
                distance = queries.to(chunk.keys.device)[:, None] - chunk.keys
                chosen = chunk.allowed & (distance > 0)
                layers[layer.index].add(chunk.scores[0][:, chosen], distance[chosen])

            capture_scores(inputs.model, text[None], inputs.pattern, on_chunk, sizes=inputs.sizes)
            refuse_one_distance(layers)
            per_text.append(torch.stack([layer.r2() for layer in layers]))
        r2 = torch.stack(per_text).mean(0).tolist()
        rows: list[Row] = [
            {"measure": "scores", "layer": layer, "head": head, "value": r2[layer][head]}
            for layer in range(n_layers)
            for head in range(n_heads)
        ]
        return Measurement((*rows, *embedding_rows(inputs)))

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return a table, a chart against length for each layer, and a picture of every head."""
        n_layers = 1 + max(int(r["layer"]) for result in results for r in result.measurement.rows)
        charts = [
            Chart(
                f"Translation invariance of scores, layer {layer + 1}",
                "length (tokens)", "Toeplitz R² (mean over heads)", True, False,
                against_length(results, lambda result, layer=layer: layer_mean(result, layer)),  # type: ignore[misc]
                trained_marks(results),
                "1: scores are a function of distance alone. Mean over heads, texts and seeds; "
                "the band is the seeds' range.",
            )
            for layer in range(n_layers)
        ]  # fmt: skip
        return [table(results, n_layers), *charts, every_head(results, n_layers)]

    def summary(self, result: LabelledMeasurement) -> dict[str, float]:
        """Return the mean R^2 of all heads' scores, and of the embeddings where there are some."""
        means = {
            "Toeplitz R² of scores": finite_mean(values_of(result, "scores")),
            "Toeplitz R² of P Pᵀ": finite_mean(values_of(result, "gram")),
        }
        return {name: value for name, value in means.items() if math.isfinite(value)}


def refuse_one_distance(layers: Sequence[Diagonals]) -> None:
    """Raise NotDefined for a layer whose pairs j < i are all of one distance, or that has none."""
    for number, layer in enumerate(layers, 1):
        n_distances = int((layer.count[0] > 0).sum())
        if n_distances < 2:
            raise NotDefined(
                f"layer {number} has {counted(n_distances, 'distance')} in sight beside 0, and "
                "translation invariance compares two or more"
            )


def embedding_rows(inputs: AnalysisInput) -> list[Row]:
    """Return R^2 of P P^T and of every head's position-position term; none without embeddings P."""
    try:
        p = position_embeddings(inputs)
    except NotDefined:
        return []
    n_heads, block = inputs.model.dims.n_heads, inputs.model.blocks[0]
    rows: list[Row] = [
        {"measure": "gram", "layer": 0, "head": 0, "value": of_products(p, p, inputs.sizes)[0]}
    ]
    mixer = block.mixer if isinstance(block, Block) else None
    if not isinstance(block, Block) or not isinstance(mixer, Attention):
        return rows  # another's layers: where q and k come from is not known
    norm = block.norm_attention
    if not isinstance(norm, nn.LayerNorm | nn.RMSNorm) or not isinstance(mixer.qk_norm, NoQKNorm):
        return rows  # scores are no sum of four terms
    with torch.no_grad():
        centred = p - p.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else p
        normed = centred * norm.weight.double()
        q, k, _ = (normed @ mixer.qkv.weight.double().T).split(mixer.sizes, dim=-1)
    q = q.unflatten(-1, (n_heads, -1)).transpose(0, 1)
    k = k.unflatten(-1, (mixer.n_kv_heads, -1)).transpose(0, 1)
    k = for_each_query(k[None], n_heads)[0]
    for head, value in enumerate(of_products(q, k, inputs.sizes)):
        rows.append({"measure": "position", "layer": 0, "head": head, "value": value})
    return rows


def of_products(left: Tensor, right: Tensor, sizes: ChunkSizes) -> list[float]:
    """Return R^2 over j < i of left_i . right_j, of [T, D] or [H, T, D]: some rows at a time."""
    left, right = (t if t.ndim == 3 else t[None] for t in (left, right))
    n_heads, n, _ = left.shape
    diagonals = Diagonals.empty(n_heads, n, left.device)
    index = torch.arange(n, device=left.device)
    most = max(1, min(sizes.max_rows, sizes.cpu_scores // (n_heads * n)))
    for rows in index.split(most):
        end = int(rows[-1])  # the keys before the last query
        distance = rows[:, None] - index[:end]
        products = left[:, rows] @ right[:, :end].transpose(-1, -2)
        diagonals.add(products[:, distance > 0], distance[distance > 0])
    return diagonals.r2().tolist()


def values_of(result: LabelledMeasurement, measure: str, layer: int | None = None) -> list[float]:
    """Return the values of a measure, of one layer or all."""
    return [
        float(row["value"])
        for row in result.measurement.rows
        if row["measure"] == measure and layer in (None, row["layer"])
    ]


def layer_mean(result: LabelledMeasurement, layer: int) -> float:
    """Return the mean R^2 of the scores of a layer's heads."""
    return finite_mean(values_of(result, "scores", layer))


def every_head(results: Sequence[LabelledMeasurement], n_layers: int) -> Picture:
    """Draw R^2 of each layer and head of each model at its longest length, first method."""
    n_heads = 1 + max(int(row["head"]) for result in results for row in result.measurement.rows)
    panels = []
    for kind, same in longest_of_each(by_kind(results)).items():
        if kind.method != results[0].method:
            continue
        r2 = np.full((len(same), n_layers, n_heads), np.nan)
        for seed, result in enumerate(same):
            for row in result.measurement.rows:
                if row["measure"] == "scores":
                    r2[seed, int(row["layer"]), int(row["head"])] = row["value"]
        panels.append((f"{kind.name}, {kind.length} tokens", r2.mean(0)))
    return heat_maps(
        f"Toeplitz R² of every head, {results[0].method} attention", panels, "head", "layer",
        "Mean over texts and seeds.", (0.5, n_heads + 0.5, n_layers + 0.5, 0.5),
    )  # fmt: skip


def table(results: Sequence[LabelledMeasurement], n_layers: int) -> Table:
    """Show R^2 by layer, over all heads, and of the embeddings."""
    rows = []
    for kind, same in sorted(by_kind(results).items(), key=lambda item: in_order(item[0])):
        every = [v for result in same for v in values_of(result, "scores") if math.isfinite(v)]
        gram = [v for result in same for v in values_of(result, "gram")]
        position = [v for result in same for v in values_of(result, "position")]
        layers = [finite_mean([layer_mean(result, n) for result in same]) for n in range(n_layers)]
        spread = f"{min(every):.2f} to {max(every):.2f}" if every else ""
        numbers = [*layers, finite_mean(every), finite_mean(gram), finite_mean(position)]
        texts = [f"{v:.3f}" if math.isfinite(v) else "" for v in numbers]
        texts.insert(n_layers + 1, spread)
        rows.append(
            (*map(TableCell, (kind.name, kind.method, str(kind.length))), *map(TableCell, texts))
        )
    heads = [f"layer {n + 1}" for n in range(n_layers)]
    return Table(
        "Translation invariance: Toeplitz R²",
        ("model", "attention", "length", *heads, "all layers", "heads", "P Pᵀ", "P Wq Wkᵀ Pᵀ"),
        tuple(rows),
        3,
        (
            "R² = 1 - sum (s_ij - mean of its distance)² / sum (s_ij - overall mean)², over pairs "
            "j < i in sight, all of the same weight; mean over heads, texts and seeds.",
            "heads: the lowest and highest R² of any head. P: position embeddings that the scheme "
            "adds; their term in the scores is of the first layer.",
        ),
    )
