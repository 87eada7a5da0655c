"""Position probe: how well hidden states predict a token's position (Haviv et al. 2022).

"Transformer Language Models without Positional Encodings Still Learn Positional Information",
Findings of EMNLP, arXiv 2203.16634, section 5. The model is frozen. For the embeddings and the
output of every block a classifier of its own (two layers, ReLU) learns to tell at which of the
positions 0 .. L-1 a hidden state stands. Of documents that it was not trained on:

    mean_distance    mean |p^ - p|, p^ the likeliest position: the paper's measure
    median_distance  the same with p^ the median of the predicted distribution, which is the guess
                     that has the least distance in expectation if the distribution is right
    accuracy         share of p^ = p, p^ the likeliest
    error            standard error of mean_distance over held-out documents (NaN of one)

next to guesses without input, over all positions, exactly:

    middle    always p^ = floor((L-1)/2):     floor(L^2 / 4) / L, the least of any constant
    random    p^ uniform on 0 .. L-1:         (L^2 - 1) / (3 L)

A classifier without information has near equal probabilities everywhere: its likeliest position is
of little meaning and its mean_distance near `random` (in the paper too, about 340 of 1024), while
its median_distance is near `middle`. Embeddings of models without positions show both.

Documents begin alike ("Chapter 1"), which would pass for position, so texts are rolled around to
begin at random places, as many different ones as it takes to have `states` hidden states to train
on (at most L of each text). Documents are split, never tokens: held-out ones are new in every word.

The paper trains on 10,000 steps of 64K tokens of a large corpus, here texts are few: what is found
is there, but more data could find more. Past MAX_CLASSES positions a class is a stretch of them, of
near equal size, and stands for its middle one. Memory: (layers + 1) x d_model x the states kept,
train and held-out, and one batch of texts; where a length has more, positions are drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lexp.display.document import Chart, Curve, Picture, Point
from lexp.display.table import Table, TableCell
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement, Row
from lexp.instruments.capture import hidden_states
from lexp.instruments.charts import curves_of, ordered
from lexp.instruments.linear_probe import LinearProbe, Training, train_classifier
from lexp.system.errors import NotDefined

MAX_CLASSES = 1024
# Tokens of one forward pass, where texts are short.
TOKENS = 4096


@dataclass(frozen=True)
class PositionProbe(Instrument):
    """Distance between a token's position and the prediction of a probe of each layer.

    states: hidden states of each layer to train on, at most, and as many in proportion to test on.
    held_out: share of the documents. The rest: of the classifier, see Training.
    """

    states: int = 65536
    held_out: float = 0.25
    hidden: int = 256
    steps: int = 1000
    batch: int = 512
    lr: float = 0.002
    seed: int = 0
    name = "position_probe"

    def __post_init__(self) -> None:
        for of in ("states", "hidden", "steps", "batch"):
            if getattr(self, of) < 1:
                raise ValueError(f"{of} must be at least 1, got {getattr(self, of)}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr must be above 0, got {self.lr}")

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return a row for each layer; layer 0: the embeddings."""
        if inputs.seq_len < 2:
            raise NotDefined("a position probe needs texts of 2 tokens or more")
        train, test = split(len(inputs.texts), self.held_out, self.seed)
        per_text = max(1, self.states // len(train))
        train_states, test_states = (
            states_of(inputs, chosen, per_text, self.seed) for chosen in (train, test)
        )
        training = Training(self.hidden, self.steps, self.batch, self.lr, self.seed)
        baselines = {"middle": middle(inputs.seq_len), "random": random(inputs.seq_len)}
        rows: list[Row] = []
        for layer in range(len(train_states.states)):
            distances = probed(
                train_states.states[layer],
                train_states.positions,
                test_states,
                layer,
                inputs.seq_len,
                training,
            )
            rows.append({"layer": layer, **distances, **baselines})
        return Measurement(tuple(rows))

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return a table of distances by model and layer, and a chart at the longest length."""
        longest = max(result.length for result in results)
        return [table(results), chart([result for result in results if result.length == longest])]


@dataclass(frozen=True)
class States:
    """Hidden states [layers + 1, N, d_model], and each one's position and document, int64 [N]."""

    states: Tensor
    positions: Tensor
    documents: Tensor


def middle(length: int) -> float:
    """Return the mean distance of all positions 0 .. length-1 to the middle one."""
    return (length * length // 4) / length


def random(length: int) -> float:
    """Return the mean distance of two positions drawn from 0 .. length-1, each by itself."""
    return (length * length - 1) / (3 * length)


def split(n_texts: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Split documents into training and test, at least one of each, drawn by the seed."""
    if n_texts < 2:
        raise NotDefined(
            f"a position probe needs documents to train on and others to test on: "
            f"texts=2 or more, there is {n_texts}"
        )
    n_test = min(n_texts - 1, max(1, round(n_texts * held_out)))
    order = torch.randperm(n_texts, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[n_test:]), sorted(order[:n_test])


def states_of(inputs: AnalysisInput, documents: Sequence[int], per_text: int, seed: int) -> States:
    """Return hidden states of documents rolled to begin at different places, drawn by the seed.

    Of each document at most per_text states, and at most seq_len rolls.
    """
    n = inputs.seq_len
    kept, positions, owners = [], [], []
    for document in documents:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + document)
        shifts = torch.randperm(n, generator=generator)[: max(1, per_text // n)]
        for starts in shifts.split(max(1, TOKENS // n)):
            tokens = torch.stack([inputs.texts[document].roll(-int(start)) for start in starts])
            at = torch.arange(n)
            if per_text < n:
                at = torch.randperm(n, generator=generator)[:per_text].sort().values
            states = hidden_states(inputs.model, tokens, inputs.pattern)
            at = at.to(tokens.device)
            kept.append(torch.stack([state[:, at].float().flatten(0, 1) for state in states]))
            positions.append(at.repeat(len(starts)))
            owners.append(torch.full_like(positions[-1], document))
    return States(torch.cat(kept, dim=1), torch.cat(positions), torch.cat(owners))


def probed(
    states: Tensor, positions: Tensor, new: States, layer: int, length: int, training: Training
) -> dict[str, float]:
    """Train a probe on states [N, d_model] at positions [N]; measure it on new ones of a layer."""
    if not (states.isfinite().all() and new.states[layer].isfinite().all()):
        raise NotDefined(f"hidden states of layer {layer} are not finite")
    n_classes = min(length, MAX_CLASSES)
    probe = train_classifier(states, positions * n_classes // length, n_classes, training)
    likeliest, median = guesses(probe, new.states[layer], length, n_classes)
    distance = (likeliest - new.positions).abs().double()
    means = [
        float(distance[new.documents == document].mean()) for document in new.documents.unique()
    ]
    n = len(means)
    return {
        "mean_distance": float(distance.mean()),
        "error": float(np.std(means, ddof=1)) / math.sqrt(n) if n > 1 else math.nan,
        "median_distance": float((median - new.positions).abs().double().mean()),
        "accuracy": float((distance == 0).double().mean()),
    }


def guesses(
    probe: LinearProbe, states: Tensor, length: int, n_classes: int
) -> tuple[Tensor, Tensor]:
    """Return the likeliest position of each state and the median one, int64 [N]."""
    edges = -(-torch.arange(n_classes + 1, device=states.device) * length // n_classes)
    stands_for = (edges[:-1] + edges[1:] - 1) // 2
    likeliest, median = [], []
    for p in probe.probabilities(states):
        likeliest.append(stands_for[p.argmax(-1)])
        # The sum may end below a half of 1 by rounding only: half of what there is.
        sums = p.double().cumsum(-1)
        median.append(stands_for[(sums < sums[:, -1:] / 2).sum(-1)])
    return torch.cat(likeliest), torch.cat(median)


def table(results: Sequence[LabelledMeasurement]) -> Table:
    """Show mean distance of the likeliest and the median position by layer, and the baselines."""
    n_layers = max(len(result.measurement.rows) for result in results) - 1
    rows = []
    for result in ordered(results):
        layers_rows = result.measurement.rows
        for of, measure in (("likeliest", "mean_distance"), ("median", "median_distance")):
            names = result.name, f"s{result.seed}", result.method, str(result.length), of
            texts = [f"{float(row[measure]):.1f}" for row in layers_rows]
            texts += [""] * (n_layers + 1 - len(layers_rows))
            texts += [f"{float(layers_rows[0][key]):.1f}" for key in ("middle", "random")]
            rows.append((*map(TableCell, names), *map(TableCell, texts)))
    layers = ("embedded", *(f"layer {n}" for n in range(n_layers)))
    return Table(
        "Position probe: mean distance to the true position (tokens)",
        ("model", "seed", "method", "length", "guess", *layers, "middle", "random"),
        tuple(rows), 5,
        ("Of held-out documents; embedded: before the first block, layer n: after it. guess: the "
         "probe's likeliest position, or the median of its distribution.",
         "middle: always the middle position; random: a random position. A probe without "
         "information has its likeliest near `random` and its median near `middle`."),
    )  # fmt: skip


def chart(results: Sequence[LabelledMeasurement]) -> Chart:
    """Draw mean distance of the likeliest position by layer, of results at one length."""

    def values(result: LabelledMeasurement) -> tuple[Point, ...]:
        return tuple(
            Point(float(row["layer"]), y, y - e, y + e)
            for row in result.measurement.rows
            for y, e in [(float(row["mean_distance"]), float(row["error"]))]
        )

    n_layers = max(len(result.measurement.rows) for result in results)
    length = results[0].length
    constant = [
        Curve(words, "", tuple(Point(float(n), y) for n in range(n_layers)))
        for words, y in (("always the middle", middle(length)), ("random guess", random(length)))
    ]
    return Chart(
        f"Position probe at {length} tokens", "blocks passed (0: embedded)",
        "mean distance to the true position", False, False,
        (*curves_of(results, [values(result) for result in results]), *constant), (),
        "Of the probe's likeliest position, on held-out documents; the band is one standard error "
        "over documents.",
    )  # fmt: skip
