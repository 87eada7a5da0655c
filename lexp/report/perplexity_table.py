"""Perplexity by length as a table: one row per (variant, attention), one column per length."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lexp.display.table import Table, TableCell
from lexp.evaluate import LAST, NOT_DEFINED, NOT_FINITE, OUT_OF_MEMORY, Cell
from lexp.scoring.protocol import BOS, describe

SHORT = {NOT_DEFINED: "n/d", NOT_FINITE: "not finite", OUT_OF_MEMORY: "OOM"}


@dataclass(frozen=True)
class Entry:
    """What one place of the table shows: a mean over seeds and half their range, or a failure."""

    value: float
    spread: float
    text: str


@dataclass(frozen=True)
class Row:
    """A variant under one method; entries by length."""

    model: str
    attention: str
    extension: str
    note: str
    text: str
    precision: str
    step: int
    entries: dict[int, Entry]


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn: what is shown, and in which order."""

    title: str
    lengths: tuple[int, ...]
    train_len: int | None
    rows: tuple[Row, ...]
    comparable: bool

    @property
    def labels(self) -> dict[str, Callable[[Row], str]]:
        """Columns that name a row by heading; some are there only where rows differ in them."""
        named: dict[str, Callable[[Row], str]] = {
            "model": lambda row: row.model, "attention": lambda row: row.attention,
        }  # fmt: skip
        if any(row.extension != "none" for row in self.rows):
            named["extension"] = lambda row: "" if row.extension == "none" else row.extension
        if any(row.note for row in self.rows):
            named["variant"] = lambda row: row.note
        if any(row.step != LAST for row in self.rows):
            named["step"] = lambda row: "last" if row.step == LAST else str(row.step)
        if len({row.text for row in self.rows}) > 1:
            named["text"] = lambda row: row.text
        if len({row.precision for row in self.rows}) > 1:
            named["precision"] = lambda row: row.precision
        return named

    def header(self, length: int) -> str:
        """A column's heading, the trained length marked."""
        return f"{length} (trained)" if length == self.train_len else str(length)

    def is_best(self, row: Row, length: int) -> bool:
        """Whether no other row shows a lower number at this length (to the digits shown)."""
        values = [r.entries[length].value for r in self.rows if length in r.entries]
        finite = [value for value in values if math.isfinite(value)]
        entry = row.entries.get(length)
        if not (self.comparable and entry and finite):
            return False
        return f"{entry.value:.2f}" == f"{min(finite):.2f}"


TOKEN_METRIC = "Perplexity per token"
METRICS: dict[str, Callable[[Cell], float]] = {
    TOKEN_METRIC: lambda cell: cell.ppl,
    "Bits per byte": lambda cell: cell.bpb,
}


def make_grid(metric: str, cells: list[Cell], notes: dict[str, str]) -> Grid:
    """Arrange cells as a table of one metric; notes: by variant, what tells it apart.

    Cells that differ in their seed alone are averaged; a failure of any seed is shown, not averaged
    away. Numbers per token of different vocabularies, or of different texts, are not compared.
    """
    groups: dict[tuple, dict[int, list[Cell]]] = {}
    for cell in cells:
        groups.setdefault(row_key(cell), {}).setdefault(cell.length, []).append(cell)
    rows = []
    for by_length in groups.values():
        one = next(iter(by_length.values()))[0]
        note = notes.get(one.variant, "")
        entries = {length: _entry(found, METRICS[metric]) for length, found in by_length.items()}
        text = f"{one.dataset} {one.text}"
        place = one.model, one.attention, one.extension, note, text, one.precision, one.step
        rows.append(Row(*place, entries))
    texts = {(c.text, c.tokenizer if metric == TOKEN_METRIC else "") for c in cells}
    train_lens = {c.train_len for c in cells}
    return Grid(
        title=f"{metric}, {cells[0].protocol}",
        lengths=tuple(sorted({c.length for c in cells})),
        train_len=train_lens.pop() if len(train_lens) == 1 else None,
        rows=tuple(rows),
        comparable=len(texts) == 1,
    )


def row_key(cell: Cell) -> tuple:
    """Cells of one row (of one curve): the same in everything but seed and length."""
    method = cell.attention, cell.extension, cell.precision
    return cell.model, cell.variant, cell.text, *method, cell.step


def to_sheet(grid: Grid, notes: tuple[str, ...] = ()) -> Table:
    """The grid ready to be drawn, best per column marked."""
    labels = grid.labels
    rows = []
    for row in grid.rows:
        fields = [TableCell(label(row)) for label in labels.values()]
        for length in grid.lengths:
            entry = row.entries.get(length)
            failed = entry is not None and not math.isfinite(entry.value)
            style = "best" if grid.is_best(row, length) else "failed" if failed else ""
            fields.append(TableCell(entry.text if entry else "", style))
        rows.append(tuple(fields))
    heads = (*labels, *map(grid.header, grid.lengths))
    return Table(grid.title, heads, tuple(rows), len(labels), notes)


def _entry(cells: list[Cell], metric: Callable[[Cell], float]) -> Entry:
    failed = [cell for cell in cells if not cell.ok]
    if failed:
        short = SHORT[failed[0].status]
        of = f" {len(failed)}/{len(cells)}" if len(cells) > 1 and len(failed) < len(cells) else ""
        return Entry(math.nan, 0.0, short + of)
    values = [metric(cell) for cell in cells]
    mean, spread = sum(values) / len(values), (max(values) - min(values)) / 2
    text = _number(mean) + (f" ±{_number(spread)}" if len(values) > 1 else "")
    return Entry(mean, spread, text)


def _number(value: float) -> str:
    return (
        f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}" if value < 1e6 else f"{value:.1e}"
    )


def caption(results: list[tuple[Cell, str]]) -> list[str]:
    """What stands below a table: protocol, what was scored, seeds, and the reasons of failures."""
    cells = [cell for cell, _ in results]
    lines = []
    for protocol in sorted({c.protocol for c in cells}):
        same = [c for c in cells if c.protocol == protocol]
        for dataset in sorted({c.dataset for c in same}):
            scored = sorted({c.tokens for c in same if c.dataset == dataset})
            documents = next(c.documents for c in same if c.dataset == dataset)
            counts = f"{scored[0]}" + f" to {scored[-1]}" * (len(scored) > 1)
            lines.append(
                f"{protocol}: {describe(protocol)}; {counts} tokens of {documents} {dataset} "
                f"documents scored; perplexity is exp(total nats / total tokens), BOS: {BOS}."
            )
    seeds = sorted({c.seed for c in cells})
    sizes = ", ".join(sorted({c.size for c in cells}))
    spread = f"; mean of seeds {', '.join(map(str, seeds))} ± half their range" * (len(seeds) > 1)
    trained = ", ".join(str(n) for n in sorted({c.train_len for c in cells}))
    lines.append(f"{sizes}, trained at {trained} tokens{spread}. Bold: best of its column.")
    reasons = {(SHORT[c.status], c.model, why) for c, why in results if not c.ok}
    lines += [f"{short} ({model}): {why}." for short, model, why in sorted(reasons)]
    return lines
