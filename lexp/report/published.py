"""Perplexities printed in papers, to stand beside one's own; the values are in published/*.csv.

Absolute values of other data, sizes and vocabularies say nothing about ours. What can be compared
is how a curve bends, so that each is divided by its own value at its trained length.
"""

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib import resources

from lexp.display.document import Curve, Point


@dataclass(frozen=True)
class Published:
    """A printed value. source: paper and table. value NaN where a failure is printed.

    model and method have lexp's names where lexp has the scheme; method `unstated` where the paper
    does not tell. Lengths in tokens. protocol: how the text was cut, as the paper states it.
    """

    source: str
    arxiv: str
    model: str
    method: str
    train_len: int
    length: int
    metric: str
    value: float
    dataset: str
    protocol: str
    note: str

    @property
    def series(self) -> tuple:
        """What the values of one curve have in common, whichever table of a paper they are in."""
        return self.arxiv, self.model, self.method, self.train_len, self.dataset, self.protocol

    @property
    def paper(self) -> str:
        """The first word of the source."""
        return self.source.split()[0]


def load_published() -> tuple[Published, ...]:
    """All values, in the order of the files and of their rows."""
    folder = resources.files("lexp.report") / "published"
    found: list[Published] = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".csv"):
            found += parse(file.read_text(encoding="utf-8"))
    return tuple(found)


def parse(text: str) -> list[Published]:
    """Rows of a CSV whose columns are those of Published."""
    reader = csv.DictReader(io.StringIO(text))
    if reader.fieldnames != [field.name for field in fields(Published)]:
        raise ValueError(f"columns {reader.fieldnames}")
    return [
        Published(
            source=row["source"], arxiv=row["arxiv"], model=row["model"], method=row["method"],
            train_len=int(row["train_len"]), length=int(row["length"]), metric=row["metric"],
            value=_value(row["value"]), dataset=row["dataset"], protocol=row["protocol"],
            note=row["note"],
        )
        for row in reader
    ]  # fmt: skip


def overlay(published: Iterable[Published], train_len: int) -> tuple[Curve, ...]:
    """Curves of length / trained length against perplexity / perplexity at the trained length.

    train_len: that of the runs they stand beside, for the note, which says why a curve is not like
    theirs. A curve without a value at its trained length takes that of the same model under another
    method: up to there the methods see the same keys. Where the paper has none either, it is left
    out.
    """
    rows = [row for row in published if row.metric == "ppl"]
    series: dict[tuple, dict[int, Published]] = {}
    for row in rows:
        series.setdefault(row.series, {}).setdefault(row.length, row)
    curves = []
    for by_length in series.values():
        one = next(iter(by_length.values()))
        base = by_length.get(one.train_len) or _trained(rows, one)
        if base is None:
            continue
        points = []
        for length, row in sorted({base.length: base, **by_length}.items()):
            note = f"{row.source}: {_printed(row)} at {length}, {base.value:g} at {base.length}"
            points.append(Point(length / one.train_len, row.value / base.value, note=note))
        group = f"{one.paper}, {one.method}, {one.dataset.split(' (')[0]}, {one.train_len}"
        group += ", sliding" if one.protocol.startswith("sliding") else ""
        curves.append(Curve(one.model, group, tuple(points), unlike(one, train_len), own_x=True))
    return tuple(curves)


def unlike(row: Published, train_len: int) -> str:
    """Why a published value is not comparable with a run of ours trained at train_len tokens."""
    trained = f"trained at {row.train_len} tokens"
    if row.train_len != train_len:
        trained += f" (ours {train_len})"
    parts = [f"arXiv {row.arxiv}", trained, f"per token of its own vocabulary on {row.dataset}"]
    return "Not like ours: " + "; ".join([*parts, row.protocol, *filter(None, [row.note])]) + "."


def _trained(rows: list[Published], one: Published) -> Published | None:
    """The value at the trained length of the same model, text and protocol, whatever the method."""
    for row in rows:
        same = (row.arxiv, row.model, row.dataset, row.protocol, row.train_len) == (
            one.arxiv, one.model, one.dataset, one.protocol, one.train_len,
        )  # fmt: skip
        if same and row.length == row.train_len:
            return row
    return None


def _value(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _printed(row: Published) -> str:
    return "a failure" if math.isnan(row.value) else f"{row.value:g}"
