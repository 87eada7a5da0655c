"""Perplexities printed in papers, for comparison with measured ones; values in published/*.csv.

Absolute perplexities of other data, sizes and vocabularies cannot be compared. The shape of a curve
can, so each curve is divided by its own value at its trained length.
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
    """A printed value. source: paper and table. value: NaN where the paper prints a failure.

    model and method have lexp's names where lexp has the scheme; method `unstated` where the paper
    does not state it. Lengths in tokens. protocol: how the text was cut, as the paper states it.
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
        """Return the key of the curve that this value belongs to, in any table of the paper."""
        return self.arxiv, self.model, self.method, self.train_len, self.dataset, self.protocol

    @property
    def paper(self) -> str:
        """Return the name of the paper: the first word of the source."""
        return self.source.split()[0]


def load_published() -> tuple[Published, ...]:
    """Load all values, in the order of the files and of their rows."""
    folder = resources.files("lexp.report") / "published"
    values: list[Published] = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".csv"):
            values += parse(file.read_text(encoding="utf-8"))
    return tuple(values)


def parse(text: str) -> list[Published]:
    """Parse a CSV with the columns of Published."""
    reader = csv.DictReader(io.StringIO(text))
    if reader.fieldnames != [field.name for field in fields(Published)]:
        raise ValueError(f"columns {reader.fieldnames}: expected the fields of Published")
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
    """Return curves of length / trained length against perplexity / perplexity at trained length.

    train_len: of the runs that the curves are compared with, for the note on differences. A curve
    without a value at its trained length takes the value of the same model under another method,
    because up to that length the methods see the same keys. Without either the curve is left out.
    """
    rows = [row for row in published if row.metric == "ppl"]
    series: dict[tuple, dict[int, Published]] = {}
    for row in rows:
        series.setdefault(row.series, {}).setdefault(row.length, row)
    curves = []
    for by_length in series.values():
        first = next(iter(by_length.values()))
        base = by_length.get(first.train_len) or _trained(rows, first)
        if base is None:
            continue
        points = []
        for length, row in sorted({base.length: base, **by_length}.items()):
            note = f"{row.source}: {_printed(row)} at {length}, {base.value:g} at {base.length}"
            points.append(Point(length / first.train_len, row.value / base.value, note=note))
        group = f"{first.paper}, {first.method}, {first.dataset.split(' (')[0]}, {first.train_len}"
        group += ", sliding" if first.protocol.startswith("sliding") else ""
        curves.append(
            Curve(first.model, group, tuple(points), unlike(first, train_len), own_x=True)
        )
    return tuple(curves)


def unlike(row: Published, train_len: int) -> str:
    """Say why a published value cannot be compared with a run trained at train_len tokens."""
    trained = f"trained at {row.train_len} tokens"
    if row.train_len != train_len:
        trained += f" (ours {train_len})"
    parts = [f"arXiv {row.arxiv}", trained, f"per token of its own vocabulary on {row.dataset}"]
    return (
        "Not comparable in absolute value: "
        + "; ".join([*parts, row.protocol, *filter(None, [row.note])])
        + "."
    )


def _trained(rows: list[Published], value: Published) -> Published | None:
    """Return the value at the trained length of the same model, text and protocol, any method."""
    for row in rows:
        same = (row.arxiv, row.model, row.dataset, row.protocol, row.train_len) == (
            value.arxiv, value.model, value.dataset, value.protocol, value.train_len,
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
