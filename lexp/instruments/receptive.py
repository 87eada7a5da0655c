"""Empirical receptive field: how far back the inputs reach on which the newest output depends.

For a text of tokens x_0 .. x_n and the embedding e_j of input token j, before positions are added,

    g_j = || d ln p(x_n | x_0 .. x_{n-1}) / d e_j ||_2,    j = 0 .. n-1
    share at distance r = (mean over texts of) g_{n-1-r} / sum_j g_j

cumulated from the newest input, r = 0, back. The field is the distance at which the sum reaches
99 % (Chi et al. 2023, "Dissecting Transformer Length Extrapolation via the Lens of Receptive Field
Analysis", arXiv 2212.10356, section 4; here the gradient is of the log-likelihood of the text's
last token, a number that training works on). Shares are taken of each text before the mean, so
every text weighs the same.

One text at a time, with gradients of the embeddings alone. Texts longer than LONG have each layer
computed again in the backward pass, so that one layer's attention is in memory at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lexp.attention import AttentionFunction, AttentionInput, make_attend
from lexp.display.document import Chart, Curve, Picture, Point
from lexp.display.table import Table, TableCell
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.over_seeds import Kind, by_kind, finite_mean, in_order, longest_of_each
from lexp.model.transformer import Transformer
from lexp.pattern import Banded, Pattern
from lexp.system.errors import NotDefined

PERCENT = (50, 90, 99)
LONG = 2048


@dataclass(frozen=True)
class Receptive(Instrument):
    """Cumulative share of the newest output's gradient by distance, and what holds 50/90/99 %."""

    name = "receptive"

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return rows of the distances, and of the cumulative share at powers of two."""
        n_inputs = inputs.seq_len - 1
        if n_inputs < 1:
            raise NotDefined("a receptive field needs texts of 2 tokens or more")
        total = torch.zeros(n_inputs, dtype=torch.float64)
        for text in inputs.texts:
            sizes = (
                gradients(inputs.model, inputs.pattern, text).norm(dim=-1).double().cpu().flip(0)
            )
            if not (sizes.isfinite().all() and sizes.sum() > 0):
                raise NotDefined("the newest output's gradient is 0 or not finite")
            total += sizes / sizes.sum()
        shares = (total / len(inputs.texts)).numpy()
        cumulative = shares.cumsum()
        rows: list[Row] = [
            {"measure": f"distance_{percent}", "value": reached(cumulative, percent)}
            for percent in PERCENT
        ]
        farthest = reachable(inputs.pattern, n_inputs, inputs.model)
        rows.append({"measure": "reachable", "value": farthest})
        for power in range(n_inputs.bit_length()):
            distance = 2**power - 1
            rows.append({"measure": "cumulative", "distance": distance,
                         "value": float(cumulative[distance])})  # fmt: skip
        return Measurement(tuple(rows), {"shares": shares})

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return a table of distances; the cumulative share at each model's longest length."""
        kinds = by_kind(results)
        return [table(kinds), chart(longest_of_each(kinds), max(kind.length for kind in kinds))]


def gradients(model: Transformer, pattern: Pattern, text: Tensor) -> Tensor:
    """Return d ln p(last token) / d embedding of every token before it [n - 1, d]; text [n]."""
    tokens, target = text[None, :-1], text[None, -1:]
    attend = make_attend(pattern, tokens.shape[1], model.schemes, text.device)
    if tokens.shape[1] > LONG:
        attend = Recomputed(attend)
    with torch.enable_grad():
        embedded = model.embedding(tokens).detach().requires_grad_()

        def instead(layer: nn.Module, arguments: tuple[Tensor, ...], out: Tensor) -> Tensor:
            return embedded

        handle = model.embedding.register_forward_hook(instead)
        try:
            loss = model.losses(tokens, target, attend).sum()
        finally:
            handle.remove()
        return torch.autograd.grad(-loss, embedded)[0][0]


class Recomputed(AttentionFunction):
    """Attention that keeps only its inputs for the backward pass."""

    def __init__(self, function: AttentionFunction):
        self.function = function

    def attend(self, inputs: AttentionInput) -> Tensor:
        """Return the output [B, H, T, D]."""
        return checkpoint(self.function, *inputs, use_reentrant=False)


def reachable(pattern: Pattern, n_inputs: int, model: Transformer) -> int:
    """Return the farthest distance that the newest output can depend on at all, in tokens."""
    first = n_inputs - 1
    schemes, turns = model.schemes, pattern.turns
    for n in reversed(range(len(model.blocks))):
        scheme, own = schemes[n % len(schemes)], turns[n % len(turns)]
        if not own.attends:
            first = 0  # the state may keep something of every token
        elif isinstance(own, Banded):
            first = int(own.first_key(torch.tensor(first))) - scheme.n_earlier
        else:
            first = min(branch.keys(first, first + 1)[0] for branch in own.branches)
        first = max(0, first)
    return n_inputs - 1 - first


def reached(cumulative: np.ndarray, percent: float) -> int:
    """Return the least distance that holds `percent` of the whole."""
    return int((cumulative < percent / 100 * cumulative[-1]).sum())


def mean_of(results: Sequence[LabelledMeasurement], measure: str) -> float:
    """Return the mean of a measure over seeds."""
    rows = [
        row for result in results for row in result.measurement.rows if row["measure"] == measure
    ]
    return finite_mean([float(row["value"]) for row in rows])


def table(kinds: dict[Kind, list[LabelledMeasurement]]) -> Table:
    """Show distances that hold 50, 90 and 99 %, by model, method and length."""
    rows = []
    for kind, results in sorted(kinds.items(), key=lambda item: in_order(item[0])):
        held = [f"{mean_of(results, f'distance_{percent}'):.0f}" for percent in PERCENT]
        texts = (*kind[:2], str(kind.length), *held, f"{mean_of(results, 'reachable'):.0f}")
        rows.append(tuple(map(TableCell, texts)))
    return Table(
        "Empirical receptive field (tokens)",
        ("model", "attention", "length", *(f"{p} %" for p in PERCENT), "reachable"),
        tuple(rows),
        3,
        (
            "Distance from the newest input that holds 50, 90 or 99 % of the gradient norm of the "
            "last token's log-likelihood; mean over texts and seeds. reachable: the farthest token "
            "that attention over all layers can reach.",
        ),
    )


def chart(kinds: dict[Kind, list[LabelledMeasurement]], longest: int) -> Chart:
    """Draw the cumulative share against the number of newest tokens."""
    curves = []
    for kind, results in kinds.items():
        each = [result.measurement.arrays["shares"].cumsum() for result in results]
        name = kind.name if kind.length == longest else f"{kind.name} at {kind.length}"
        points = tuple(
            Point(
                n + 1, 100 * float(np.mean([c[n] for c in each])),
                *((100 * float(min(c[n] for c in each)), 100 * float(max(c[n] for c in each)))
                  if len(each) > 1 else ()),
            )
            for n in places(len(each[0]))
        )  # fmt: skip
        curves.append(Curve(name, kind.method, points, own_x=True))
    trained = sorted({result.train_len for results in kinds.values() for result in results})
    return Chart(
        f"Empirical receptive field at {longest} tokens",
        "newest tokens", "cumulative share of the gradient (%)", True, False, tuple(curves),
        tuple((float(n), "trained") for n in trained),
        "Gradient of the last token's log-likelihood by the embeddings of the tokens before it; "
        "mean over texts and seeds.",
    )  # fmt: skip


def places(n: int, per_doubling: int = 16) -> list[int]:
    """Return indices of 0 .. n-1 at equal steps of the logarithm, both ends included."""
    steps = np.arange(0, np.log2(n) + 1e-9, 1 / per_doubling)
    return sorted({*(round(2 ** float(s)) - 1 for s in steps), n - 1})
