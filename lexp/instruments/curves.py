"""What a scheme adds to scores by distance, and how far its heads then reach.

    curve   b_h(n), n = i - j: the bias of the pair (T-1, T-1-n), the last query of a text, added to
            q.k / sqrt(d). Schemes that read the query's index (FIRE) have another at each length
    span    the least r with sum_{n <= r} w_h(n) >= share, w_h = softmax of b_h over the distances
            in sight: how far a head reaches by its position alone, if all contents score alike

for ALiBi with slope m over T keys: w(n) proportional to e^(-m n), so r is the least whole number
with 1 - e^(-m (r+1)) >= share (1 - e^(-m T)); without any bias r = ceil(share T) - 1.
A bias that depends on what is read (FoX, CABLE) is averaged over the texts and all pairs at each
distance; it has no span, as softmax of a mean is no mean of softmaxes. Where a pattern moves
positions, distances are still those of the tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lexp.display.document import Chart, Picture
from lexp.display.table import Table
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.capture import Seen, watched
from lexp.instruments.curves_shown import charts, sheet
from lexp.instruments.distances import DistanceMeans, spaced
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.position import Position
from lexp.position.base import Bias, Pair
from lexp.system.errors import NotDefined

SHARES = (0.95, 0.99)
# Rows of queries whose biases exist at once, where all pairs are needed, and biases in all.
ROWS, MAX_BIASES = 128, 1 << 20


@dataclass(frozen=True)
class Curves(Instrument):
    """Bias by distance and effective span of every head."""

    name = "curves"

    def look(self, view: AnalysisInput) -> Measurement:
        """Rows: spans, and the bias at spaced distances; array bias [schemes, heads, T].

        One scheme where all layers share it (its layer is `all`). NaN where nothing is in sight.
        """
        schemes = view.model.schemes
        refuse_without_bias(schemes)
        mean = any(reads_content(scheme, view) for scheme in schemes)
        if mean:
            curves = mean_curves(view)
        else:
            curves = torch.stack([fixed_curve(scheme, view) for scheme in schemes])
        # Without softmax a curve still means something, a span does not.
        shares = () if mean or any(scheme.has_attention_weights for scheme in schemes) else SHARES
        rows: list[Row] = []
        for layer, heads in enumerate(curves):
            name = "all" if len(curves) == 1 else layer
            for head, curve in enumerate(heads):
                place: Row = {"layer": name, "head": head}
                for share in shares:
                    reach = span(curve, share)
                    rows.append({"measure": f"span {share:g}", **place, "value": reach})
                for n in spaced(view.seq_len, 2):
                    if torch.isfinite(curve[n]):
                        value = float(curve[n])
                        rows.append({"measure": "bias", **place, "distance": n, "value": value})
        return Measurement(tuple(rows), {"bias": curves.numpy()})

    def show(self, found: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """A table of spans, and for each model a chart of all its heads."""
        spans = sheet(found, SHARES)
        return [*([spans] if spans.rows else []), *charts(found)]


def refuse_without_bias(schemes: Sequence[Position]) -> None:
    """NotDefined for models that no layer of which adds a bias to its scores."""
    if any(scheme.has_bias for scheme in schemes):
        return
    name = type(schemes[0]).__name__
    if any(scheme.has_attention_weights for scheme in schemes):
        raise NotDefined(f"{name} acts on whole rows of scores, it adds nothing by distance alone")
    raise NotDefined(f"{name} adds no bias to scores")


def span(curve: Tensor, share: float) -> int:
    """The distance within which softmax of a bias by distance [T] holds a share of its weight."""
    weights = curve.double().nan_to_num(-math.inf).softmax(-1)
    # Sums from the far end, small weights first: what is left outside of each distance.
    outside = weights.flip(-1).cumsum(-1).flip(-1) - weights
    return int((outside <= 1 - share + 1e-12).int().argmax())


def reads_content(scheme: Position, view: AnalysisInput) -> bool:
    """Whether another input to the layer gives another bias."""
    if not scheme.has_bias:
        return False
    shape, like = (1, view.seq_len, view.model.dims.d_model), next(view.model.parameters())
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.zeros(shape), torch.randn(shape, generator=generator)]
    one, other = (fixed_curve(scheme, view, x.to(like)) for x in inputs)
    return not torch.equal(one.nan_to_num(0.0), other.nan_to_num(0.0))


def fixed_curve(scheme: Position, view: AnalysisInput, x: Tensor | None = None) -> Tensor:
    """b_h(n) of the last query, float64 [heads, T]; NaN at distances it does not see."""
    n, n_heads = view.seq_len, view.model.dims.n_heads
    like = next(view.model.parameters())
    x = like.new_zeros(1, n, view.model.dims.d_model) if x is None else x
    curve = torch.full((n_heads, n), math.nan, dtype=torch.float64)
    with torch.no_grad():
        bias = scheme.bias(x)
        sampled = sampled_positions(view.model, n, like)
        for pair, allowed in grids(view.pattern, n - 1, n, n_heads, like, sampled):
            seen = allowed[0].cpu()
            values = like.new_zeros(()) if bias is None else bias(pair)
            values = values.expand(1, n_heads, *allowed.shape)[0, :, 0]
            curve[:, (pair.i - pair.j)[0].cpu()[seen]] = values.double().cpu()[:, seen]
    return curve


def mean_curves(view: AnalysisInput) -> Tensor:
    """b_h(n) averaged over texts and pairs, float64 [layers, heads, T]."""
    dims, n = view.model.dims, view.seq_len
    sums = DistanceMeans(dims.n_layers, dims.n_heads, n)
    rows = max(1, min(ROWS, MAX_BIASES // (dims.n_heads * n)))

    def on_layer(seen: Seen) -> None:
        bias: Bias | None = seen.position.bias(seen.x)
        for start in range(0, n, rows):
            end = min(start + rows, n)
            for pair, allowed in grids(
                view.pattern, start, end, dims.n_heads, seen.x, seen.sampled
            ):
                values = seen.x.new_zeros(()) if bias is None else bias(pair)
                values = values.expand(1, dims.n_heads, *allowed.shape)[0]
                sums.add(seen.layer, values, pair.i - pair.j, allowed)

    for text in view.texts:
        watched(view.model, text[None], view.pattern, on_layer=on_layer, sizes=view.sizes)
    return sums.means()


def sampled_positions(model: Transformer, length: int, like: Tensor) -> Tensor | None:
    """The positions a forward pass would have, where they are not 0 .. T-1."""
    sampled = model.position.sample_positions(length)
    return None if sampled is None else sampled.to(like.device)


def grids(
    pattern: Pattern, start: int, end: int, n_heads: int, like: Tensor, sampled: Tensor | None
) -> list[tuple[Pair, Tensor]]:
    """Queries start .. end-1 with the keys in their reach: pairs, and which are allowed [Q, K].

    One grid for each branch of the pattern, with the positions it gives.
    """
    device = like.device
    i = torch.arange(start, end, device=device)[:, None]
    made = []
    for branch in pattern.branches:
        first, last = branch.keys(start, end)
        if first >= last:
            continue
        j = torch.arange(first, last, device=device)[None]
        if sampled is not None:
            q_pos, k_pos = sampled[i], sampled[j]
        else:
            q_pos, k_pos = branch.q_map(i).double(), branch.k_map(j).double()
        # Counted from the first query, where float32 is exact.
        origin = q_pos.min()
        b = torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=device)
        h = torch.arange(n_heads, device=device)[:, None, None]
        q_pos, k_pos = ((t - origin).to(like.dtype) for t in (q_pos, k_pos))
        pair = Pair(b, h, i, j, q_pos, k_pos, pattern.n_keys(i))
        made.append((pair, branch.allowed(i, j)))
    return made
