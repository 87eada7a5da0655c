"""Positional vectors: the mean hidden state of each position (Dong et al. 2024).

"Exploring Context Window of Large Language Models via Decomposed Positional Vectors", NeurIPS,
arXiv 2405.18009. Of the residual stream h_t^a of sample a = 1 .. N at position t, layer by layer:

    p_t = mean_a h_t^a             positional vector
    u = mean_{t < L} p_t           L the trained length (the paper: over all t; so lengths compare)
    m_t = p_t - u                  positional basis;   h_t^a - p_t: content

A sample is a text rolled around to begin at a random place, `shifts` of them of each text. What
documents begin alike with ("Chapter 1") would otherwise pass for position; the price is a seam
somewhere in each sample. (Places evenly spread would repeat content at even distances.)

A mean of N samples keeps 1 / N of the content's variance, which the paper's 32,000 make small and
a few do not. What is squared here is therefore taken across different samples only, with
g_t^a = h_t^a - mean_{t' < L} h_t'^a, and has no such share in expectation:

    |m_t|^2 = sum_{a != b} g_t^a . g_t^b / (N (N - 1))     (chance may make it negative)
    drift   |m_t| / sqrt(mean_{t' < L, a} |g_t'^a|^2), in units of the spread of trained states;
            where the square is negative, after any averaging, 0
    norm    |p_t|, of the plain mean
    share   mean_t |p_t - mean_t' p_t'|^2 / mean_{t, a} |h_t^a - mean h|^2, the share of variance
            that position explains, the numerator across samples as above
    cosine  of m_s and m_t, of plain means: content that is left in m lowers it off the diagonal

Where there are more than MAX_MAP positions the map is of the means of as many stretches of m.
Memory grows with n, not n^2.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lexp.display.document import Chart, Picture, Point
from lexp.display.png import heat_maps
from lexp.display.table import Table, TableCell
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.capture import hidden_states
from lexp.instruments.charts import curves_of, ordered, points, root_points
from lexp.instruments.over_seeds import trained_marks
from lexp.system.errors import NotDefined

MAX_MAP = 128
# Maps of one picture stand in rows of so many.
N_COLUMNS = 4


@dataclass(frozen=True)
class Vectors(Instrument):
    """Mean hidden state of each position: size, drift past the trained length, similarity.

    shifts: samples made of each text.
    """

    shifts: int = 8
    name = "vectors"

    def __post_init__(self) -> None:
        if self.shifts < 1:
            raise ValueError(f"shifts must be at least 1, got {self.shifts}")

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return arrays norm, drift2 (squared) [layers + 1, n], cosine [layers + 1, P, P]; rows."""
        if len(inputs.texts) < 2:
            raise NotDefined("positional vectors need several texts: texts=2 or more")
        n_states = inputs.model.dims.n_layers + 1
        sums = [Sums(inputs) for _ in range(n_states)]
        for sample in rolled(inputs.texts, self.shifts):
            states = hidden_states(inputs.model, sample[None], inputs.pattern)
            for layer_sums, state in zip(sums, states, strict=True):
                layer_sums.add(state[0].double())
        norm, drift2 = (np.stack([getattr(s, of)() for s in sums]) for of in ("norm", "drift2"))
        cosine = np.stack([s.cosine() for s in sums]).astype(np.float32)
        rows: list[Row] = [
            {"measure": "share", "layer": n, "value": s.share()} for n, s in enumerate(sums)
        ]
        # In octaves, as lengths are: from the trained length down to 1, and up.
        first = 0
        for last in sorted({*(1 << p for p in range(inputs.seq_len.bit_length())), inputs.seq_len}):
            for n in range(n_states):
                drift = math.sqrt(max(0.0, float(drift2[n, first:last].mean())))
                for of, value in (("norm", float(norm[n, first:last].mean())), ("drift", drift)):
                    rows.append({"measure": of, "layer": n, "from": first, "to": last - 1,
                                 "value": value})  # fmt: skip
            first = last
        rows.append({"measure": "samples", "value": len(inputs.texts) * self.shifts})
        return Measurement(tuple(rows), {"norm": norm, "drift2": drift2, "cosine": cosine})

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return shares of all lengths, drift and norm in middle and last layer, cosine maps."""
        longest = max(result.length for result in results)
        longest_results = [result for result in results if result.length == longest]
        n_layers = max(len(result.measurement.arrays["norm"]) for result in results) - 1
        items: list[Table | Chart | Picture] = [shares(results, n_layers)]
        for layer in sorted({1, (n_layers + 1) // 2, n_layers}):
            items += [curves(longest_results, of, layer) for of in ("drift2", "norm")]
        for of in dict.fromkeys((result.state, result.method) for result in longest_results):
            same = [result for result in longest_results if (result.state, result.method) == of]
            items.append(maps(same, f"{of[0]} models" + f", {of[1]}" * (of[1] != "full")))
        return items


class Sums:
    """Running sums over a layer's states, sample by sample; states float64 [n, d_model]."""

    def __init__(self, inputs: AnalysisInput):
        self.trained = min(inputs.train_len, inputs.seq_len)
        n, d_model = inputs.seq_len, inputs.model.dims.d_model
        self.n_samples = 0
        self.sum = torch.zeros(n, d_model, dtype=torch.float64, device=inputs.texts.device)
        self.squares = self.sum.new_zeros(n)  # |h_t^a|^2
        self.centred = self.sum.new_zeros(n)  # |g_t^a|^2
        self.mean_squares = 0.0  # |mean_t g_t^a|^2

    def add(self, state: Tensor) -> None:
        """Add the states of one sample."""
        self.n_samples += 1
        self.sum += state
        self.squares += state.square().sum(-1)
        centred = state - state[: self.trained].mean(0)
        self.centred += centred.square().sum(-1)
        self.mean_squares += float(centred.mean(0).square().sum())

    def basis(self) -> Tensor:
        """Return m_t, from plain means, [n, d_model]."""
        mean = self.sum / self.n_samples
        return mean - mean[: self.trained].mean(0)

    def _across(self, basis: Tensor, squares: Tensor) -> Tensor:
        """Return the mean product over pairs of different samples.

        basis: the mean of the samples. squares: the sum of their squared norms, [n].
        """
        n = self.n_samples
        return (n * n * basis.square().sum(-1) - squares) / (n * (n - 1))

    def norm(self) -> np.ndarray:
        """Return |p_t|, [n]."""
        return (self.sum / self.n_samples).norm(dim=-1).cpu().numpy()

    def drift2(self) -> np.ndarray:
        """Return the square of drift, [n]; 0 where trained states do not differ at all."""
        usual = float(self.centred[: self.trained].mean()) / self.n_samples
        squares = self._across(self.basis(), self.centred).cpu().numpy()
        return squares / usual if usual > 0 else np.zeros_like(squares)

    def share(self) -> float:
        """Return the share of the states' variance that position explains; 0 without variance."""
        basis = self.basis()
        squares = torch.tensor(self.mean_squares, dtype=torch.float64, device=basis.device)
        explained = self._across(basis, self.centred).mean() - self._across(basis.mean(0), squares)
        mean = self.sum.mean(0) / self.n_samples
        whole = self.squares.mean() / self.n_samples - mean.square().sum()
        return max(0.0, float(explained / whole)) if whole > 0 else 0.0

    def cosine(self) -> np.ndarray:
        """Return the cosine of m_s and m_t, [P, P]; P = min(n, MAX_MAP) stretches."""
        stretches = self.basis().tensor_split(min(len(self.sum), MAX_MAP))
        chosen = torch.stack([stretch.mean(0) for stretch in stretches])
        chosen = chosen / chosen.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        return (chosen @ chosen.T).cpu().numpy()


def rolled(texts: Tensor, shifts: int) -> Iterator[Tensor]:
    """Yield each of texts [N, n] `shifts` times, rolled to random starts, always the same."""
    generator = torch.Generator().manual_seed(0)
    for text in texts:
        for start in torch.randint(texts.shape[1], (shifts,), generator=generator).tolist():
            yield text.roll(-start)


def n_samples(results: Sequence[LabelledMeasurement]) -> str:
    """Say from how many samples the results are, as a warning."""
    counts = {
        int(r["value"])
        for result in results
        for r in result.measurement.rows
        if r["measure"] == "samples"
    }
    return f"From {' and '.join(map(str, sorted(counts)))} samples of text; the paper has 32,000."


def shares(results: Sequence[LabelledMeasurement], n_layers: int) -> Table:
    """Show the share of variance that position explains, of every model, length and layer."""
    rows = []
    for result in ordered(results):
        shares_of = {
            int(r["layer"]): f"{r['value']:.2%}"
            for r in result.measurement.rows
            if r["measure"] == "share"
        }
        names = result.name, f"s{result.seed}", result.method, str(result.length)
        rows.append(
            (
                *map(TableCell, names),
                *(TableCell(shares_of.get(n, "")) for n in range(n_layers + 1)),
            )
        )
    layers = ("embedded", *(f"layer {n}" for n in range(n_layers)))
    note = "Share of hidden states' variance; embedded: similarity of the texts by chance. "
    return Table("Variance explained by position", ("model", "seed", "method", "length", *layers),
                 tuple(rows), 4, (note + n_samples(results),))  # fmt: skip


def curves(results: Sequence[LabelledMeasurement], of: str, layer: int) -> Chart:
    """Draw drift (drift2) or norm after a layer (1: the first) against position by model."""

    def values(result: LabelledMeasurement) -> tuple[Point, ...] | None:
        values_of = result.measurement.arrays[of]
        if layer >= len(values_of):
            return None
        return root_points(values_of[layer]) if drifts else points(values_of[layer])

    drifts = of == "drift2"
    words = "distance to trained mean / spread" if drifts else "norm of the vector"
    title = "Drift of positional vectors" if drifts else "Norm of positional vectors"
    return Chart(
        f"{title}, after layer {layer - 1}", "position (tokens, from 1)", words, True, not drifts,
        curves_of(results, [values(result) for result in results]), trained_marks(results),
        "Curves of random models show what is chance. " * drifts + n_samples(results),
    )  # fmt: skip


def maps(results: Sequence[LabelledMeasurement], words: str) -> Picture:
    """Draw cosine maps: a row for each model, layers from the first to the last."""
    panels = []
    for result in results:
        cosine = result.measurement.arrays["cosine"][1:]
        chosen = np.linspace(0, len(cosine) - 1, min(N_COLUMNS, len(cosine))).round().astype(int)
        name = (
            result.variant
            if len({result.seed for result in results}) == 1
            else f"{result.variant} s{result.seed}"
        )
        panels += [(f"{name}, layer {n}", cosine[n]) for n in chosen]
    n, trained = results[0].length, sorted({result.train_len for result in results})
    title = f"Cosine of positional vectors, {words} (trained to {', '.join(map(str, trained))})"
    return heat_maps(
        title, panels, "position (tokens)", "position (tokens)",
        "Mean of trained positions taken away. " + n_samples(results), (0, n, n, 0), True,
    )  # fmt: skip
