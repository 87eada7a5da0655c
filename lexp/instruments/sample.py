"""Samples: how a model continues a text at 1 and 8 times its trained length.

A text of n tokens is the beginning of the first test text: all but its last `new_tokens` are the
prompt, and the model continues it greedily up to n tokens. `lexp generate` in the same precision
prints the same of the same prompt. The tokens of the text itself stand in a row of their own.

Measured at every length that is given; shown at 1 and 8 times the trained length, or at all lengths
if neither was measured. Of several seeds the first is shown.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lexp.display.document import Chart, Picture
from lexp.display.table import Table, TableCell
from lexp.instruments.base import AnalysisInput, Instrument, LabelledMeasurement, Measurement
from lexp.instruments.over_seeds import by_kind
from lexp.model.decoder import Decoder
from lexp.scoring.generation import greedy_text
from lexp.system.errors import Diverged, NotDefined
from lexp.system.text import counted

# Lengths that are shown, over the trained length.
TIMES = (1, 8)
# Characters of the prompt that are shown: its last ones.
SHOWN_BEFORE = 60


class Place(NamedTuple):
    """What samples in one table share. n_before: tokens of the prompt; before: its last words."""

    length: int
    n_before: int
    before: str
    in_text: str


@dataclass(frozen=True)
class Sample(Instrument):
    """The greedy continuation of the first test text. new_tokens: its length, at most."""

    new_tokens: int = 40
    name = "sample"

    def __post_init__(self) -> None:
        if self.new_tokens < 1:
            raise ValueError(f"new_tokens must be at least 1, got {self.new_tokens}")

    def measure(self, inputs: AnalysisInput) -> Measurement:
        """Return one row: the words before, the continuation, and how the text itself goes on."""
        tokenizer = inputs.tokenizer
        if tokenizer is None:
            raise NotDefined("samples continue texts, and this run was trained on a task")
        if inputs.seq_len < 2:
            raise NotDefined("a sample needs texts of 2 tokens or more")
        n_new = min(self.new_tokens, inputs.seq_len // 2)
        text = inputs.texts[0].tolist()
        prompt = text[:-n_new]
        decoder = Decoder(inputs.model, inputs.pattern, inputs.seq_len)
        try:
            continuation = greedy_text(decoder, prompt, tokenizer, contextlib.nullcontext())
        except Diverged as error:
            raise NotDefined(str(error)) from None
        before, in_text = tokenizer.decode([prompt[-SHOWN_BEFORE:], text[-n_new:]])
        row: dict[str, str | int | float] = {
            "n_before": len(prompt), "before": before[-SHOWN_BEFORE:],
            "continuation": continuation, "in_text": in_text,
        }  # fmt: skip
        return Measurement((row,))

    def show(self, results: Sequence[LabelledMeasurement]) -> list[Table | Chart | Picture]:
        """Return a table for each length and text."""
        wanted = [r for r in results if r.length in [n * r.train_len for n in TIMES]]
        kinds = by_kind(wanted or results)
        places: dict[Place, list[LabelledMeasurement]] = {}
        for same in kinds.values():
            for first in _first_seeds(same):
                places.setdefault(place_of(first), []).append(first)
        return [_table(place, places[place]) for place in sorted(places)]


def _first_seeds(results: Sequence[LabelledMeasurement]) -> list[LabelledMeasurement]:
    """Keep the first seed's samples: one, unless runs read their texts in other tokens."""
    first: dict[Place, LabelledMeasurement] = {}
    for result in sorted(results, key=lambda r: r.seed):
        first.setdefault(place_of(result), result)
    return list(first.values())


def place_of(result: LabelledMeasurement) -> Place:
    """Return what a sample shares with those of other models in its table."""
    (row,) = result.measurement.rows
    n_before, before, in_text = (row[name] for name in ("n_before", "before", "in_text"))
    return Place(result.length, int(n_before), str(before), str(in_text))


def _table(place: Place, results: Sequence[LabelledMeasurement]) -> Table:
    (ratio, *others) = {result.length / result.train_len for result in results}
    times = "" if others else f", {ratio:g} x the trained length"
    rows = [("the text itself", "", place.in_text)]
    rows += [
        (result.name, result.method, str(result.measurement.rows[0]["continuation"]))
        for result in results
    ]
    return Table(
        f"Samples at {place.length} tokens{times}",
        ("model", "method", "continuation"),
        tuple(tuple(map(TableCell, row)) for row in rows),
        3,
        (
            f"Greedy, after {counted(place.n_before, 'token')} of the first test text, which end "
            f"in: {place.before}",
        ),
    )
