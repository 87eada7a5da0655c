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

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lexp.attention.chunked import QueryChunk
from lexp.display.document import Chart, Picture
from lexp.display.table import Table
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.capture import Seen, watched
from lexp.instruments.distances import DistanceMeans
from lexp.instruments.resolution_shown import charts, sheets
from lexp.position import Position
from lexp.system.errors import NotDefined

SOFTMAX, RAW = "q.k / sqrt(d) + bias", "q.k"
EACH, MEAN, THEORY = "each head", "mean of heads", "theory"


@dataclass(frozen=True)
class Resolution(Instrument):
    """Attention resolution R, measured and of the theoretical curve, and s[n] against n."""

    name = "resolution"

    def look(self, view: AnalysisInput) -> Measurement:
        """A row for each R; arrays scores [layers, heads, T], theory [layers, T] (NaN: none)."""
        schemes = layer_schemes(view)
        if any(scheme.has_attention_weights for scheme in schemes):
            name = type(view.model.position).__name__
            raise NotDefined(f"{name} has no scores before softmax that hold its positions")
        sums = DistanceMeans(len(schemes), view.model.dims.n_heads, view.seq_len)

        def on_tile(seen: Seen, tile: QueryChunk) -> None:
            n_queries = tile.scores.shape[2]
            queries = torch.arange(n_queries, device=tile.keys.device) + tile.start
            distance = queries[:, None] - tile.keys
            sums.add(seen.layer, tile.scores[0], distance, tile.allowed)

        for text in view.texts:
            watched(view.model, text[None], view.pattern, on_tile, sizes=view.sizes)
        means = sums.means()
        # d as attention divides by it, whatever a scheme makes of the channels.
        root = math.sqrt(view.model.dims.head_dim)
        rows = measured_rows(means, SOFTMAX)
        if not any(scheme.has_bias for scheme in schemes):
            rows += measured_rows(means * root, RAW)
        theory = theory_of(view, schemes, means)
        for layer, curve in enumerate(theory):
            if torch.isfinite(curve).any():
                for scores, divisor in ((RAW, 1.0), (SOFTMAX, root)):
                    rows.append(row(THEORY, scores, layer, -1, resolution(curve / divisor)))
        return Measurement(tuple(rows), {"scores": means.numpy(), "theory": theory.numpy()})

    def show(self, found: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """R by model, method and length beside the published values; R and s[n] as charts."""
        return [*sheets(found), *charts(found)]


def resolution(scores: Tensor) -> float:
    """R of expected scores s[n] by distance, float64 [T]; NaN where a distance is not in sight."""
    seen = torch.isfinite(scores).nonzero().flatten()
    weights = (scores - scores[seen].max()).exp().nan_to_num(0.0)
    # The farthest key has none behind it.
    following = torch.cat([weights[1:], weights.new_zeros(1)])
    return float((weights * (weights - following)).sum() / weights.sum() ** 2)


def layer_schemes(view: AnalysisInput) -> list[Position]:
    """The scheme of every layer."""
    schemes = view.model.schemes
    return [schemes[n % len(schemes)] for n in range(len(view.model.blocks))]


def expected_curve(scheme: Position, length: int, head_dim: int) -> Tensor | None:
    """g[n], n = 0 .. length-1, float64, from the scheme's own constants; None if not rotary.

    Keys at 0, so that xPos decays to its true value and nothing overflows.
    """
    distance = torch.arange(length, dtype=torch.float64)
    factors = None if scheme.samples_positions else scheme.rotary_factors(distance, distance[:1])
    if factors is None or factors[0].shape[1] != head_dim // 2:
        return None
    return (factors[0] * factors[1].conj()).real.sum(-1)


def theory_of(view: AnalysisInput, schemes: Sequence[Position], means: Tensor) -> Tensor:
    """g[n] of each layer at the distances in sight, float64 [layers, T]; NaN where there is none.

    None under a pattern that moves positions: there a distance has no one angle.
    """
    curves = torch.full((len(schemes), view.seq_len), math.nan, dtype=torch.float64)
    if any(branch.moves for branch in view.pattern.branches):
        return curves
    for layer, scheme in enumerate(schemes):
        curve = expected_curve(scheme, view.seq_len, view.model.dims.head_dim)
        if curve is not None:
            curves[layer] = curve.masked_fill(means[layer, 0].isnan(), math.nan)
    return curves


def measured_rows(means: Tensor, scores: str) -> list[Row]:
    """R of every head, and of the heads' mean, from s^ [layers, heads, T]."""
    rows = []
    for layer, heads in enumerate(means):
        rows += [row(EACH, scores, layer, h, resolution(own)) for h, own in enumerate(heads)]
        rows.append(row(MEAN, scores, layer, -1, resolution(heads.mean(0))))
    return rows


def row(kind: str, scores: str, layer: int, head: int, value: float) -> Row:
    """A value of R with its definition; head -1: not of one head."""
    return {"of": kind, "scores": scores, "layer": layer, "head": head, "value": value}
