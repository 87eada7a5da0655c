"""The fall of attention output's variance with position: Chi et al. 2023, ACL, arXiv 2305.13571.

For each layer and position m = 1 .. n, with u_m the concatenated outputs of its heads [inner] and
o_m = W_o u_m [d_model], before it is added to the residual stream:

    output   (1 / d) sum_c (o_mc - mean_c o_mc)^2, over the d = d_model channels of o_m
    heads    the same over the channels of u_m, before the projection
    equal    the same for W_o applied to the plain mean of the visible values: the output of uniform
             attention. It differs from 1 / m only where values repeat.
    single   the same for W_o v_n, averaged over n: one value alone

averaged over texts. A causal mean of independent values has output = single / m, the paper's
account of how models without positions know where they are. A text repeats its tokens, which
independent values do not: so each model also reads `normal` inputs, embeddings drawn from N(0, s^2)
independently of each other, s the standard deviation of its own table, as in the paper.

The slope b is of ln variance = a + b ln m, from position fit_from on, weights 1 / m so that every
octave counts alike; error: standard error over texts (positions of one text share their keys, so
their residuals do not tell); misfit: root mean square residual in ln variance.

The derivation itself is checked next to it, on the paper's setting: lexp.instruments.derivation.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lexp.attention.chunked import QueryChunk
from lexp.display.document import Chart, Curve, Picture, Point
from lexp.display.table import Table, TableCell
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.capture import LayerInputs, capture_scores
from lexp.instruments.charts import curves_of, points
from lexp.instruments.derivation import Derivation, derivation, slope
from lexp.instruments.over_seeds import trained_marks
from lexp.model.transformer import Transformer
from lexp.system.errors import NotDefined

INPUTS = ("text", "normal")
KINDS = ("output", "heads", "equal")
NOTE = "Variance over channels by that of one value; a mean of m independent values is 1/m. "


@dataclass(frozen=True)
class Variance(Instrument):
    """Variance of attention output by position, its decay exponent, and the paper's derivation.

    fit_from: first position of the fit. The rest is the setting of the derivation.
    """

    fit_from: int = 4
    d_model: int = 768
    n_heads: int = 12
    n_layers: int = 3
    sigma: float = 0.02
    seq_len: int = 512
    seed: int = 0
    name = "variance"

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return slopes; arrays variance [inputs, kinds, layers, n], single [inputs, layers]."""
        if inputs.seq_len < 2 * self.fit_from:
            raise NotDefined(f"a slope from position {self.fit_from} on needs twice as many tokens")
        n_texts, n_layers = len(inputs.texts), inputs.model.dims.n_layers
        variance = np.zeros((len(INPUTS), len(KINDS), n_layers, inputs.seq_len))
        single = np.zeros((len(INPUTS), n_layers))
        slopes = np.zeros((len(INPUTS), len(KINDS), n_layers, n_texts))
        for i, source in enumerate(INPUTS):
            for n, text in enumerate(inputs.texts):
                with embedded(inputs.model, n if source == "normal" else None):
                    of_text, alone = variances(inputs, text)
                variance[i] += of_text.numpy() / n_texts
                single[i] += alone.numpy() / n_texts
                for kind in range(len(KINDS)):
                    for layer in range(n_layers):
                        slopes[i, kind, layer, n] = slope(of_text[kind, layer], self.fit_from)[0]
        arrays = {"variance": variance, "single": single}
        return Measurement(tuple(self._rows(variance, single, slopes)), arrays)

    def _rows(self, variance: np.ndarray, single: np.ndarray, slopes: np.ndarray) -> Iterator[Row]:
        n_texts, n_positions = slopes.shape[-1], variance.shape[-1]
        for i, source in enumerate(INPUTS):
            for layer in range(variance.shape[2]):
                for kind, of in enumerate(KINDS):
                    curve = variance[i, kind, layer]
                    b, misfit = slope(torch.from_numpy(curve), self.fit_from)
                    spread = slopes[i, kind, layer].std(ddof=1) if n_texts > 1 else math.nan
                    names: Row = {"inputs": source, "of": of, "layer": layer}
                    yield {"measure": "slope", **names, "value": b,
                           "error": spread / math.sqrt(n_texts), "misfit": misfit}  # fmt: skip
                    for power in range(n_positions.bit_length()):
                        value = float(curve[(1 << power) - 1])
                        yield {"measure": "variance", **names, "m": 1 << power, "value": value}
                alone = float(single[i, layer])
                yield {"measure": "single", "inputs": source, "layer": layer, "value": alone}

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return slopes, curves of first, middle and last layer, and the derivation."""
        setting = (self.d_model, self.n_heads, self.n_layers, self.sigma, self.seq_len, self.seed)
        theory = derivation(*setting)
        longest = max(result.length for result in results)
        longest_results = [result for result in results if result.length == longest]
        items: list[Table | Chart | Picture] = []
        items += [self._slopes(longest_results, n) for n in range(len(INPUTS))]
        n_layers = max(result.measurement.arrays["single"].shape[1] for result in longest_results)
        for layer in sorted({0, n_layers // 2, n_layers - 1}):
            items += [curves(longest_results, n, layer) for n in range(len(INPUTS))]
        words = f"d {self.d_model}, H {self.n_heads}, sigma {self.sigma:g}, n {self.seq_len}"
        return [*items, properties(theory, words), derived(theory, words)]

    def _slopes(self, results: Sequence[LabelledMeasurement], source: int) -> Table:
        n_layers = max(result.measurement.arrays["single"].shape[1] for result in results)
        rows = []
        for result in results:
            for of in KINDS:
                cells_of = {
                    int(r["layer"]): f"{r['value']:.2f} ± {r['error']:.2f}".replace("-", "\u2212")
                    for r in result.measurement.rows
                    if (r["measure"], r["inputs"], r.get("of")) == ("slope", INPUTS[source], of)
                }
                names = result.name, f"s{result.seed}", result.method, of
                cells = [TableCell(cells_of.get(layer, "")) for layer in range(n_layers)]
                rows.append((*map(TableCell, names), *cells))
        length = results[0].length
        return Table(
            f"Decay exponent of attention variance, {INPUTS[source]} inputs",
            ("model", "seed", "method", "of", *(f"layer {n}" for n in range(n_layers))),
            tuple(rows), 4,
            (f"Slope of ln variance against ln m over m = {self.fit_from} .. {length}, ± its "
             "standard error over texts; -1: a mean of independent values.",
             "output: after the projection; heads: before it; equal: of the plain mean of values."),
        )  # fmt: skip


def variances(inputs: AnalysisInput, text: Tensor) -> tuple[Tensor, Tensor]:
    """Return variance [kinds, layers, n] and single [layers] of one text, float64 on the CPU.

    Exact for every pattern; a chunk is freed before the next one.
    """
    n_layers = inputs.model.dims.n_layers
    variance = torch.zeros(len(KINDS), n_layers, len(text), dtype=torch.float64)
    single = torch.zeros(n_layers, dtype=torch.float64)

    def project(layer: int, heads: Tensor) -> Tensor:
        """Project outputs of heads [1, H, Q, D] to the residual stream [Q, d_model]."""
        out = inputs.model.blocks[layer].attention.out  # type: ignore[union-attr]
        return out(heads[0].transpose(0, 1).flatten(1).to(out.weight.dtype))  # type: ignore

    def on_layer(layer: LayerInputs) -> None:
        single[layer.index] = _variance(project(layer.index, layer.v)).mean()

    def on_chunk(layer: LayerInputs, chunk: QueryChunk) -> None:
        v = chunk.values(layer.v)
        heads = chunk.weights @ v
        allowed = chunk.allowed.to(v.dtype)
        equal = allowed / allowed.sum(-1, keepdim=True) @ v
        rows = slice(chunk.start, chunk.start + heads.shape[2])
        variance[0, layer.index, rows] = _variance(project(layer.index, heads))
        variance[1, layer.index, rows] = _variance(heads[0].transpose(0, 1).flatten(1))
        variance[2, layer.index, rows] = _variance(project(layer.index, equal))

    capture_scores(inputs.model, text[None], inputs.pattern, on_chunk, on_layer, sizes=inputs.sizes)
    return variance, single


def _variance(values: Tensor) -> Tensor:
    """Return the variance over the last axis, float64 on the CPU."""
    return values.double().var(-1, correction=0).cpu()


@contextmanager
def embedded(model: Transformer, seed: int | None) -> Iterator[None]:
    """Give the model independent normal embeddings of the same scale; seed None: no change."""
    if seed is None:
        yield
        return
    n_rows, device = model.embedding.num_embeddings, model.embedding.weight.device
    # As the layers get them: some models scale what they look up.
    scale = model.embedding(torch.arange(n_rows, device=device)).double().std().item()
    generator = torch.Generator().manual_seed(seed)

    def replaced(module: torch.nn.Module, arguments: tuple[Tensor, ...], out: Tensor) -> Tensor:
        drawn = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        return (drawn * scale).to(out)

    handle = model.embedding.register_forward_hook(replaced)
    try:
        yield
    finally:
        handle.remove()


def curves(results: Sequence[LabelledMeasurement], source: int, layer: int) -> Chart:
    """Draw relative variance of every model's output in a layer against m, next to 1 / m."""

    def relative(result: LabelledMeasurement) -> tuple[Point, ...] | None:
        variance, single = (
            result.measurement.arrays["variance"],
            result.measurement.arrays["single"],
        )
        if layer >= single.shape[1]:
            return None
        return points(variance[source, KINDS.index("output"), layer] / single[source, layer])

    curves = curves_of(results, [relative(result) for result in results])
    theory = Curve("1/m", "theory", points(1 / np.arange(1, results[0].length + 1)))
    return Chart(
        f"Attention output, layer {layer}, {INPUTS[source]} inputs", "position m (tokens)",
        "variance / variance of one value", True, True, (*curves, theory), trained_marks(results),
        NOTE + {"text": "", "normal": "Embeddings are drawn independently."}[INPUTS[source]],
    )  # fmt: skip


def properties(theory: Derivation, words: str) -> Table:
    """Show every step of the derivation: measured, theory, ratio, tolerance, whether it holds."""
    rows = []
    for p in theory.properties:
        corrected = math.isfinite(p.corrected)
        numbers = (
            f"{p.measured:.4g}", f"{p.theory:.4g}", f"{p.ratio:.3f}",
            p.tolerance, "yes" if p.holds else "no",
            f"{p.corrected:.4g}" if corrected else "",
            f"{p.measured / p.corrected:.3f}" if corrected else "",
        )  # fmt: skip
        styles = ("", "", "", "", "" if p.holds else "failed", "", "")
        rows.append((TableCell(p.name), *map(TableCell, numbers, styles)))
    heads = ("step", "measured", "theory", "ratio", "tolerance", "holds", "corrected", "ratio")
    notes = (
        f"Random model of {words}; means over draws of weights and inputs.",
        "corrected: with uneven weights and the lean of weights towards the query's key direction.",
    )
    return Table("Derivation of the variance, step by step", heads, tuple(rows), 1, notes)


def derived(theory: Derivation, words: str) -> Chart:
    """Draw Var(o_m) of every layer of the random model next to theory."""
    curves = []
    for n, (measured, expected) in enumerate(zip(theory.simulated, theory.theory, strict=True)):
        curves.append(Curve(f"layer {n}", "simulated", points(measured)))
        curves.append(Curve(f"layer {n}", "theory", points(expected)))
        if n == 0:
            curves.append(Curve(f"layer {n}", "corrected", points(theory.corrected)))
    return Chart(
        "Derivation: variance of attention output", "position m (tokens)", "Var(o_m)", True, True,
        tuple(curves), (),
        f"Random model of {words}. The paper's theory, for layer 0, is d^2 sigma^4 / m; deeper"
        " layers read what is correlated between positions, and the decay is all but gone.",
    )  # fmt: skip
