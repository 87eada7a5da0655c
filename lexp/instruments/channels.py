"""Positional channels: which hidden channels are monotonic in position (Yu et al. 2024).

"Mitigate Position Bias in Large Language Models via Scaling a Single Dimension", arXiv 2406.02536;
the search as in the released code (PositionalHidden f3bcd55, experiments/search_dimension). Of
channel p of the residual stream after layer l at position t, averaged over samples:

    h_lp(t)    its mean, at the positions behind the first `skip` of the text, K of them
    trend      the least-squares cubic in t through h_lp; monotonic if all its steps have one sign
    layers     the layers in which p is monotonic, in the direction that more of them have; p is
               positional if these are more than a quarter of all
    roughness  sum over t of the squared second difference of h_lp, scaled to 0 .. 1 and smoothed
               (cubics over WINDOW tokens); the least of these layers. Channels are in its order
    share      variance of the trend / variance of the channel over positions and samples; not in
               the paper. Noise has a monotonic cubic in 6 of 100 cases, and next to no share

The paper then scales the channel: in the middle layers (10 to 25 of 32) the last queries attend
anew, with queries and keys of the normed input whose channel p is multiplied by s, and with the
values as they were. Here the last `queries` of each sample do, for the `top` least rough channels:

    nll        mean loss of the tokens that these queries predict, in nats
    distance   sum_j a_ij (i - j), in tokens, their mean over those layers and their heads

The paper chooses a channel by this loss on 100 key-value prompts; here it is that of the texts.
Samples are texts rolled around to random places, `shifts` of each (see lexp.instruments.vectors).
Differences from the released code: it skips 300 of 1000 tokens for the trend and 200 for the
roughness, leaves out the first two layers and the last, and smooths over 10 tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lexp.attention import (
    AttentionFunction,
    AttentionInput,
    Chunked,
    layer_pairs,
    make_attend,
)
from lexp.attention.heads import weighted
from lexp.display.document import Chart, Curve, Picture, Point
from lexp.display.table import Table, TableCell
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.capture import hidden_states
from lexp.instruments.charts import name_with_seed, names, ordered
from lexp.instruments.over_seeds import trained_marks
from lexp.instruments.vectors import rolled
from lexp.model.mixer import Attention
from lexp.model.mixer.recurrent import into_heads
from lexp.model.transformer import Block, Transformer
from lexp.system.errors import NotDefined
from lexp.system.text import in_ranges

FACTORS = (1.0, 0.5, 0.0, -0.5, -1.0)
WINDOW = 11
DEGREE = 3


@dataclass(frozen=True)
class Channel:
    """A positional channel. layers: from 0. shares: of each of these layers. rising: its trend."""

    index: int
    layers: tuple[int, ...]
    shares: tuple[float, ...]
    rising: bool
    roughness: float


@dataclass(frozen=True)
class PositionalChannels(Instrument):
    """Hidden channels monotonic in position, and loss and attention when one is scaled.

    skip: share of a text before the positions looked at. shifts: samples made of each text. top:
    channels that are scaled. queries: of each sample, with scaled channels.
    """

    skip: float = 0.3
    shifts: int = 8
    top: int = 3
    queries: int = 32

    name = "channels"

    def __post_init__(self) -> None:
        if not 0 <= self.skip < 1:
            raise ValueError(f"skip must be from 0 to below 1, got {self.skip}")
        for key in ("shifts", "top", "queries"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return rows of the channels found and scaled; array curve [n], of the least rough."""
        first = round(self.skip * inputs.seq_len)
        if inputs.seq_len - first <= WINDOW:
            raise NotDefined(
                f"channels needs more than {WINDOW} tokens behind the first {self.skip:.0%} of a "
                f"text, this one has {inputs.seq_len}"
            )
        mean, spread = moments(inputs, self.shifts)
        found = search(mean[:, first:], spread[:, first:])
        rows: list[Row] = [
            {"measure": "channels", "value": mean.shape[2]},
            {"measure": "found", "value": len(found)},
            {"measure": "samples", "value": len(inputs.texts) * self.shifts},
        ]
        chosen = found[: self.top]
        for channel in chosen:
            rows += rows_of(channel)
        if chosen and can_be_scaled(inputs.model):
            for p in [channel.index for channel in chosen]:
                for s in FACTORS:
                    nll, distance = self.scaled(inputs, p, s)
                    rows.append({"measure": "nll", "channel": p, "factor": s, "value": nll})
                    rows.append(
                        {"measure": "distance", "channel": p, "factor": s, "value": distance}
                    )
        return Measurement(tuple(rows), {"curve": curve(mean, spread, chosen)} if chosen else {})

    def scaled(self, inputs: AnalysisInput, channel: int, factor: float) -> tuple[float, float]:
        """Return nll and distance with a channel times `factor`."""
        n = inputs.seq_len - 1
        n_queries = min(self.queries, n)
        nll = 0.0
        distances: list[float] = []
        for sample in rolled(inputs.texts, self.shifts):
            attend = ScaledChannel(inputs, n, channel, factor, n - n_queries)
            tokens, targets = sample[None, :-1], sample[None, -n_queries:]
            with torch.no_grad():
                nll += float(inputs.model.losses(tokens, targets, attend).double().mean())
            distances += attend.distances
        return nll / (len(inputs.texts) * self.shifts), float(np.mean(distances))

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return tables of the channels, their loss and distance by factor; a chart of curves."""
        results = ordered(results)
        items: list[Table | Chart | Picture] = [found_table(results)]
        if any(row["measure"] == "nll" for r in results for row in r.measurement.rows):
            items += [scaled_table(results, measure) for measure in ("nll", "distance")]
        longest = max(result.length for result in results)
        drawn = [r for r in results if r.length == longest and "curve" in r.measurement.arrays]
        return [*items, chart(drawn)] if drawn else items


def moments(inputs: AnalysisInput, shifts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and mean square over samples of each layer's states, [layers, n, channels]."""
    sums = squares = None
    for sample in rolled(inputs.texts, shifts):
        states = hidden_states(inputs.model, sample[None], inputs.pattern)
        layers = torch.cat(states[1:]).double()
        sums = layers if sums is None else sums + layers
        squares = layers.square() if squares is None else squares + layers.square()
    assert sums is not None and squares is not None, "there is at least one text"
    n_samples = len(inputs.texts) * shifts
    return (sums / n_samples).cpu().numpy(), (squares / n_samples).cpu().numpy()


def search(mean: np.ndarray, square: np.ndarray) -> list[Channel]:
    """Return the positional channels, the least rough first; both [layers, K, channels].

    square: the mean square over samples.
    """
    n_layers, n, n_channels = mean.shape
    basis = np.vander(np.linspace(-1, 1, n), DEGREE + 1)
    flat = mean.transpose(1, 0, 2).reshape(n, -1)
    trend = basis @ np.linalg.lstsq(basis, flat, rcond=None)[0]
    steps = np.diff(trend, axis=0)
    # What rounding alone moves is no trend.
    moves = np.ptp(flat, axis=0) > 1e-9 * np.abs(flat).max(axis=0)
    shape = n_layers, n_channels
    rises = ((steps >= 0).all(axis=0) & moves).reshape(shape)
    falls = ((steps <= 0).all(axis=0) & moves).reshape(shape)
    variance = square.mean(axis=1) - mean.mean(axis=1) ** 2
    shares = trend.var(axis=0).reshape(shape) / np.where(variance > 0, variance, np.inf)
    found = []
    for p in range(n_channels):
        rising = bool(rises[:, p].sum() > falls[:, p].sum())
        layers = np.flatnonzero(rises[:, p] if rising else falls[:, p])
        if 4 * len(layers) > n_layers:
            least = min(roughness(mean[layer, :, p]) for layer in layers)
            of_layers = tuple(shares[layers, p].tolist())
            found.append(Channel(p, tuple(layers.tolist()), of_layers, rising, least))
    return sorted(found, key=lambda channel: channel.roughness)


def roughness(values: np.ndarray) -> float:
    """Return the sum of squared second differences of values [K], scaled and smoothed."""
    scaled = (values - values.min()) / np.ptp(values)
    return float((np.diff(smoothed(scaled), 2) ** 2).sum())


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return the value at each token of the cubic through the WINDOW tokens around it, [K].

    At the ends it is the cubic of the first or last WINDOW tokens (Savitzky and Golay 1964).
    """
    half = WINDOW // 2
    basis: np.ndarray = np.vander(np.arange(WINDOW) - half, DEGREE + 1)
    fit = basis @ np.linalg.pinv(basis)
    fitted = np.lib.stride_tricks.sliding_window_view(values, WINDOW) @ fit.T
    return np.concatenate([fitted[0, :half], fitted[:, half], fitted[-1, half + 1 :]])


def rows_of(channel: Channel) -> Iterator[Row]:
    """Yield the rows of a channel: its trend in each layer, direction and roughness."""
    for layer, share in zip(channel.layers, channel.shares, strict=True):
        yield {"measure": "share", "channel": channel.index, "layer": layer, "value": share}
    yield {"measure": "rising", "channel": channel.index, "value": int(channel.rising)}
    yield {"measure": "roughness", "channel": channel.index, "value": channel.roughness}


def curve(mean: np.ndarray, square: np.ndarray, chosen: Sequence[Channel]) -> np.ndarray:
    """Return the least rough channel by position [n], in standard deviations from its mean.

    In the layer where its trend has the largest share. The deviation is over positions and samples.
    """
    channel = chosen[0]
    layer = channel.layers[int(np.argmax(channel.shares))]
    values, squares = mean[layer, :, channel.index], square[layer, :, channel.index]
    return (values - values.mean()) / math.sqrt(squares.mean() - values.mean() ** 2)


def middle_layers(n_layers: int) -> range:
    """Return the layers in which a channel is scaled: the paper's 10 to 25 of 32, in proportion."""
    first = round(n_layers * 10 / 32)
    return range(first, max(first + 1, round(n_layers * 26 / 32)))


def can_be_scaled(model: Transformer) -> bool:
    """Return True if queries and keys of every layer can be computed anew."""
    return all(isinstance(b, Block) and isinstance(b.mixer, Attention) for b in model.blocks)


class ScaledChannel(AttentionFunction):
    """Attention in which the last queries, from `first` on, read a scaled channel.

    seq_len: tokens read. distances: mean of each layer's scaled queries, in tokens.
    """

    def __init__(
        self, inputs: AnalysisInput, seq_len: int, channel: int, factor: float, first: int
    ):
        self.model, self.channel, self.factor, self.first = inputs.model, channel, factor, first
        schemes, device = inputs.model.schemes, inputs.texts.device
        self.plain = make_attend(inputs.pattern, seq_len, schemes, device)
        self.chunked = {
            id(scheme): Chunked(pattern, seq_len, scheme, device, inputs.sizes)
            for pattern, scheme in layer_pairs(inputs.pattern, schemes)
        }
        self.layer = 0
        self.distances: list[float] = []

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        plain = self.plain.attend(inputs)
        layer, self.layer = self.layer, self.layer + 1
        if layer not in middle_layers(len(self.model.blocks)):
            return plain
        block = self.model.blocks[layer]
        assert isinstance(block, Block) and isinstance(block.mixer, Attention), "can_be_scaled"
        mixer = block.mixer
        x = inputs.x.clone()
        x[..., self.channel] *= self.factor
        q, k, _ = mixer.qkv(x).split(mixer.sizes, dim=-1)
        q, k = mixer.qk_norm(into_heads(q, mixer.n_heads), into_heads(k, mixer.n_kv_heads))
        outputs, distances = [plain[:, :, : self.first]], []
        chunks = self.chunked[id(inputs.position)].chunks(inputs._replace(q=q, k=k), self.first)
        for chunk in chunks:
            queries = torch.arange(chunk.start, chunk.start + chunk.weights.shape[2])
            distance = queries.to(x.device)[:, None] - chunk.keys
            distances.append((chunk.weights[0].double() * distance).sum(-1))
            outputs.append(weighted(chunk.weights, chunk.values(inputs.v)).to(plain.dtype))
        self.distances.append(float(torch.cat(distances, dim=1).mean()))
        return torch.cat(outputs, dim=2)


def values_of(result: LabelledMeasurement, measure: str) -> dict[tuple[int, float], float]:
    """Return the values of a measure by channel and layer or factor, in the order of the rows."""
    return {
        (int(row["channel"]), float(row.get("layer", row.get("factor", 0)))): float(row["value"])
        for row in result.measurement.rows
        if row["measure"] == measure
    }


def count(result: LabelledMeasurement, measure: str) -> int:
    """Return the value of a measure of the whole model."""
    return next(int(r["value"]) for r in result.measurement.rows if r["measure"] == measure)


def labels_of(result: LabelledMeasurement, results: Sequence[LabelledMeasurement]) -> list[str]:
    """Return the cells that name a measurement."""
    return [name_with_seed(result, results), f"{result.method} {result.length}"]


def found_table(results: Sequence[LabelledMeasurement]) -> Table:
    """Show how many channels are positional, and the least rough of them."""
    rows = []
    for result in results:
        labels = labels_of(result, results)
        labels.append(f"{count(result, 'found')} of {count(result, 'channels')}")
        shares, rising = values_of(result, "share"), values_of(result, "rising")
        for channel, _ in rising:
            of = {int(layer) + 1: share for (p, layer), share in shares.items() if p == channel}
            trend = "up" if rising[channel, 0.0] else "down"
            numbers = str(channel), f"{trend} {in_ranges(of)}", f"{max(of.values()):.1%}"
            rows.append(tuple(map(TableCell, (*labels, *numbers))))
        if not rising:
            rows.append(tuple(map(TableCell, (*labels, "", "", ""))))
    samples = " and ".join(map(str, sorted({count(result, "samples") for result in results})))
    unscaled = [r for r in results if values_of(r, "rising") and not values_of(r, "nll")]
    return Table(
        "Channels monotonic in position",
        ("model", "method", "found", "channel", "trend", "share"),
        tuple(rows),
        3,
        (
            "found: channels whose mean state follows a monotonic cubic in more than a quarter of "
            f"the layers, and the least rough of them. Means over {samples} samples.",
            "trend: its direction, and the layers. share: of the channel's variance that the cubic "
            "explains, at most. Noise is monotonic in 6 of 100 channels, with a share near 0.",
            *(
                f"{name}: no channel is scaled, only lexp's own attention layers can be."
                for name in dict.fromkeys(name_with_seed(r, results) for r in unscaled)
            ),
        ),
    )


def scaled_table(results: Sequence[LabelledMeasurement], measure: str) -> Table:
    """Show loss, or mean distance, of the last queries by channel and factor."""
    title, form, words = {
        "nll": ("loss (nats)", ".3f", "Loss of the tokens that the last queries of each sample "
                "predict, their queries and keys in the middle layers with the channel scaled."),
        "distance": ("mean distance (tokens)", ".2f", "Mean distance that these queries look "
                     "back, over heads of the middle layers."),
    }[measure]  # fmt: skip
    rows = []
    for result in results:
        values = values_of(result, measure)
        for channel in dict.fromkeys(channel for channel, _ in values):
            numbers = [f"{values[channel, factor]:{form}}" for factor in FACTORS]
            labels = *labels_of(result, results), str(channel)
            rows.append(tuple(map(TableCell, (*labels, *numbers))))
    heads = ("model", "method", "channel", *(f"x {s:g}" for s in FACTORS))
    return Table(f"One channel scaled: {title}", heads, tuple(rows), 3, (words,))


def chart(results: Sequence[LabelledMeasurement]) -> Chart:
    """Draw the least rough channel of every model against position."""
    curves = []
    for (name, group), result in zip(names(results), results, strict=True):
        values = result.measurement.arrays["curve"]
        step = max(1, len(values) // 256)
        points = tuple(Point(t + 1, float(values[t])) for t in range(0, len(values), step))
        curves.append(Curve(name, group, points, own_x=True))
    return Chart(
        "Least rough positional channel", "position (tokens, from 1)",
        "standard deviations from its mean", False, False, tuple(curves), trained_marks(results),
        "Mean over samples, in the layer where position explains most of it.",
    )  # fmt: skip
