"""Perplexity by length as a table: one row per (variant, attention), one column per length."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lexp.data.remarks import percent
from lexp.display.document import UnitTables
from lexp.display.table import Table, TableCell
from lexp.evaluate import LAST, EvalResult
from lexp.extension import Extension
from lexp.report.row_names import Scored, row_key, row_names, scored_of
from lexp.result_store import DAMAGED, FAILED, NOT_DEFINED, NOT_FINITE, OUT_OF_MEMORY
from lexp.scoring.protocol import BOS

SHORT = {
    NOT_DEFINED: "n/d", NOT_FINITE: "not finite", OUT_OF_MEMORY: "OOM", DAMAGED: "damaged",
    FAILED: "failed",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One cell of the table: a mean over seeds and half their range, or a failure.

    scored: what all seeds read. is_whole: False where a seed that the row has at
    another length is missing.
    """

    value: float
    spread: float
    text: str
    scored: Scored
    is_whole: bool = True


@dataclass(frozen=True)
class Row:
    """A variant under one method, scored on the same tokens; entries by length.

    amount: what was scored of the text, where that is not one thing in all rows.
    """

    model: str
    attention: str
    extension: str
    note: str
    text: str
    amount: str
    precision: str
    step: int
    entries: dict[int, Entry]


@dataclass(frozen=True)
class Grid:
    """The rows and columns of a table of one metric, in order.

    per_token: numbers of several vocabularies do not compare.
    """

    title: str
    lengths: tuple[int, ...]
    train_len: int | None
    rows: tuple[Row, ...]
    per_token: bool

    @property
    def labels(self) -> dict[str, Callable[[Row], str]]:
        """Return the columns that name a row, by heading; some only where rows differ in them."""
        labels: dict[str, Callable[[Row], str]] = {
            "model": lambda row: row.model, "attention": lambda row: row.attention,
        }  # fmt: skip
        if any(row.extension != Extension.name for row in self.rows):
            labels["extension"] = lambda row: (
                "" if row.extension == Extension.name else row.extension
            )
        if any(row.note for row in self.rows):
            labels["variant"] = lambda row: row.note
        if any(row.step != LAST for row in self.rows):
            labels["step"] = lambda row: "last" if row.step == LAST else str(row.step)
        if len({row.text for row in self.rows}) > 1:
            labels["text"] = lambda row: row.text
        if any(row.amount for row in self.rows):
            labels["scored"] = lambda row: row.amount
        if len({row.precision for row in self.rows}) > 1:
            labels["precision"] = lambda row: row.precision
        return labels

    def header(self, length: int) -> str:
        """Return a column's heading, with the trained length marked."""
        return f"{length} (trained)" if length == self.train_len else str(length)

    def is_best(self, row: Row, length: int) -> bool:
        """Return True if other rows compare and none shows a lower number (to the digits shown)."""
        entry = row.entries.get(length)
        alike = next((group for group in self._comparable(length) if entry in group), [])
        if entry is None or len(alike) < 2:
            return False
        return f"{entry.value:.2f}" == f"{min(e.value for e in alike):.2f}"

    def _numbers(self, length: int) -> list[Entry]:
        entries = [row.entries[length] for row in self.rows if length in row.entries]
        return [entry for entry in entries if math.isfinite(entry.value) and entry.is_whole]

    def _comparable(self, length: int) -> list[list[Entry]]:
        """Return the numbers of a column in groups that compare."""
        groups: dict[tuple, list[Entry]] = {}
        for entry in self._numbers(length):
            one = entry.scored
            vocabulary = one.vocabulary if self.per_token else ""
            key = (one.text, vocabulary, one.precision, one.documents)
            groups.setdefault(key, []).append(entry)
        found: list[list[Entry]] = []
        for group in groups.values():
            scored = [entry.scored for entry in group]
            if not _differ_in_tokens(scored):
                found.append(group)
                continue
            by_tokens: dict[tuple, list[Entry]] = {}
            for entry in group:
                one = entry.scored
                by_tokens.setdefault((one.vocabulary, one.targets), []).append(entry)
            found += by_tokens.values()
        return found

    def unlike(self, length: int) -> tuple[str, ...]:
        """Name what the numbers of a column do not have in common, so that they do not compare."""
        scored = [entry.scored for entry in self._numbers(length)]
        differing = {
            "text": {s.text for s in scored},
            "vocabulary": {s.vocabulary if self.per_token else "" for s in scored},
            "precision": {s.precision for s in scored},
            "documents": {s.documents for s in scored},
        }
        names = [name for name, values in differing.items() if len(values) > 1]
        return (*names, *["tokens"] * _differ_in_tokens(scored))

    @property
    def notes(self) -> tuple[str, ...]:
        """Say at which lengths rows do not compare, why, and what is bold there."""
        by_reason: dict[tuple[tuple[str, ...], bool], list[int]] = {}
        for length in self.lengths:
            if reason := self.unlike(length):
                has_best = any(len(group) > 1 for group in self._comparable(length))
                by_reason.setdefault((reason, has_best), []).append(length)
        notes = []
        for (reason, has_best), lengths in by_reason.items():
            at, what = ", ".join(map(str, lengths)), " and ".join(reason)
            notes.append(
                f"Rows differ in {what} at {at}: bold is the best of those that have it in common."
                if has_best
                else f"Nothing is bold at {at}: rows differ in {what}, so their numbers do not "
                "compare."
            )
        return tuple(notes)


def _differ_in_tokens(scored: list[Scored]) -> bool:
    """Return True if results of one vocabulary are of several sets of targets.

    The same targets are other stretches of text in another vocabulary.
    """
    return len({(s.vocabulary, s.targets) for s in scored}) > len({s.vocabulary for s in scored})


LOSSY = "n/d"
TOKEN_METRIC = "Perplexity per token"
BYTE_METRIC = "Bits per byte"
METRICS: dict[str, Callable[[EvalResult], float]] = {
    TOKEN_METRIC: lambda result: result.ppl,
    BYTE_METRIC: lambda result: result.bpb,
}


def metrics_in_order(results: Iterable[EvalResult]) -> tuple[str, ...]:
    """Return the metrics, first the one to show where only one can be.

    Perplexity per token, unless vocabularies differ: tokens of several do not compare.
    """
    several = len({result.run.vocabulary for result in results}) > 1
    return (BYTE_METRIC, TOKEN_METRIC) if several else (TOKEN_METRIC, BYTE_METRIC)


def unit_tables(
    results: list[EvalResult], notes: dict[str, str], below: tuple[str, ...]
) -> UnitTables:
    """Return the results of one protocol as a table in each metric. below: notes of both."""
    metrics = metrics_in_order(results)
    tables = tuple(to_table(make_grid(metric, results, notes), below) for metric in metrics)
    return UnitTables("Loss by context length", tuple(m.lower() for m in metrics), tables)


def make_grid(metric: str, results: list[EvalResult], notes: dict[str, str]) -> Grid:
    """Arrange results as a table of one metric; notes: by variant, what tells it apart.

    Results that differ in their seed alone are averaged; a failure of any seed is shown, not
    averaged away.
    """
    groups: dict[tuple, dict[int, list[EvalResult]]] = {}
    for result in results:
        by_length = groups.setdefault((*row_key(result), result.step), {})
        by_length.setdefault(result.length, []).append(result)
    rows = []
    names = row_names(results)
    for by_length in groups.values():
        first = next(iter(by_length.values()))[0]
        run, method = first.run, (first.pattern.label, first.extension.label)
        note, where = notes.get(run.variant, ""), (names.texts[run.text], names.amount(first))
        n_seeds = len({result.run.seed for seeds in by_length.values() for result in seeds})
        entries = {length: _entry(seeds, metric, n_seeds) for length, seeds in by_length.items()}
        rows.append(Row(run.model, *method, note, *where, run.precision, first.step, entries))
    train_lens = {result.run.train_len for result in results}
    return Grid(
        title=f"{metric}, {results[0].protocol.label}",
        lengths=tuple(sorted({result.length for result in results})),
        train_len=train_lens.pop() if len(train_lens) == 1 else None,
        rows=tuple(rows),
        per_token=metric == TOKEN_METRIC,
    )


def to_table(grid: Grid, notes: tuple[str, ...] = ()) -> Table:
    """Return the table of a grid, with the best of each column marked."""
    labels = grid.labels
    rows = []
    for row in grid.rows:
        cells = [TableCell(label(row)) for label in labels.values()]
        for length in grid.lengths:
            entry = row.entries.get(length)
            failed = entry is not None and not math.isfinite(entry.value)
            style = "best" if grid.is_best(row, length) else "failed" if failed else ""
            cells.append(TableCell(entry.text if entry else "", style))
        rows.append(tuple(cells))
    heads = (*labels, *map(grid.header, grid.lengths))
    return Table(grid.title, heads, tuple(rows), len(labels), (*grid.notes, *notes))


def _entry(results: list[EvalResult], metric: str, n_seeds: int) -> Entry:
    """Return a cell. n_seeds: of the row, at any length."""
    scored = scored_of(results[0])
    failed = [result for result in results if not result.ok]
    if failed:
        share = f" {len(failed)}/{len(results)}" if len(failed) < len(results) else ""
        return Entry(math.nan, 0.0, SHORT[failed[0].status] + share, scored)
    if metric != TOKEN_METRIC and any(result.run.is_lossy for result in results):
        return Entry(math.nan, 0.0, LOSSY, scored)
    values = [METRICS[metric](result) for result in results]
    mean, spread = sum(values) / len(values), (max(values) - min(values)) / 2
    text = perplexity_text(mean) + (f" ±{perplexity_text(spread)}" if len(values) > 1 else "")
    is_whole = len(results) == n_seeds
    text += "" if is_whole else f" ({len(results)} of {n_seeds} seeds)"
    return Entry(mean, spread, text, scored, is_whole)


def perplexity_text(value: float) -> str:
    """Format a perplexity: two decimals, none from 1000 on; "inf", or "" for NaN."""
    if not math.isfinite(value):
        return "" if math.isnan(value) else "inf"
    return f"{value:.2f}" if value < 1000 else f"{value:.0f}" if value < 1e6 else f"{value:.1e}"


def caption(results: list[EvalResult]) -> list[str]:
    """Write what stands below a table: protocol, what was scored, seeds, reasons of failures."""
    lines = []
    for protocol in sorted({r.protocol.label for r in results}):
        same = [r for r in results if r.protocol.label == protocol]
        for dataset in sorted({r.run.dataset for r in same}):
            of_dataset = [r for r in same if r.run.dataset == dataset]
            lines.append(
                f"{protocol}: {same[0].protocol.description}; {_amount(of_dataset)}; perplexity is "
                f"exp(total nats / total tokens), BOS: {BOS}."
            )
    seeds = sorted({r.run.seed for r in results})
    sizes = ", ".join(sorted({r.run.size for r in results}))
    spread = f"; mean of seeds {', '.join(map(str, seeds))} ± half their range" * (len(seeds) > 1)
    trained = ", ".join(str(n) for n in sorted({r.run.train_len for r in results}))
    lines.append(f"{sizes}, trained at {trained} tokens{spread}. Bold: best of its column.")
    reasons = {(SHORT[r.status], r.run.model, r.reason) for r in results if not r.ok}
    lines += [f"{short} ({model}): {why}." for short, model, why in sorted(reasons)]
    lossy = {(r.run.tokenizer, r.run.dataset, r.run.lost) for r in results if r.run.is_lossy}
    lines += [
        f"{LOSSY} (bits per byte, tokenizer {tokenizer}): its tokens cannot give back "
        f"{percent(lost)} of the bytes of {dataset}, so nobody predicts them."
        for tokenizer, dataset, lost in sorted(lossy)
    ]
    return lines


def _amount(results: list[EvalResult]) -> str:
    """Say how much of a test split was scored and how much was left out, over all rows."""
    left_out = [r.scored.of - r.documents - r.scored.too_short for r in results]
    words = [f"{_range(r.scored.too_short for r in results)} too short"] * any(
        r.scored.too_short for r in results
    )
    words += [f"{_range(left_out)} beyond max_tokens"] * any(left_out)
    return (
        f"{_range(r.tokens for r in results)} tokens of {_range(r.documents for r in results)} of "
        f"{_range(r.scored.of for r in results)} {results[0].run.dataset} documents scored"
        + f" ({', '.join(words)})"
        * bool(words)
    )


def _range(values: Iterable[int]) -> str:
    """Format the least and the greatest of some counts."""
    distinct = sorted(set(values))
    return f"{distinct[0]}" + f" to {distinct[-1]}" * (len(distinct) > 1)
