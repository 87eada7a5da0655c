"""Numbers that papers printed, beside those of a study in the same row and column.

Absolute values of other texts, sizes and vocabularies say little about ours, so each value stands
with its ratio to a base: the same row at its trained length, or another row at the same place.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lexp.display.table import Table, TableCell
from lexp.report.expected_tasks import Answers, Ranks
from lexp.report.study_results import ResultSeries
from lexp.system.errors import ConfigError

TRAINED = "trained"
MAX_NUMBER = 1e300  # no float is as large as an integer can be
# Row names are `MODEL, METHOD`; a model's variant belongs to its name (`tisa n_kernels=1`).
SEPARATOR = ", "


@dataclass(frozen=True)
class Perplexities:
    """Printed perplexities. rows: by name, a value, a text (a failure) or None for each of `at`.

    at: in trained lengths. protocol: its name. ratio_to: `trained`, or the name of a row.
    """

    source: str
    note: str
    protocol: str
    at: tuple[float, ...]
    ratio_to: str
    rows: dict[str, tuple[float | str | None, ...]]


@dataclass(frozen=True)
class Costs:
    """Printed costs by row, relative to the row `against`, at trained length times `at`."""

    source: str
    note: str
    protocol: str
    at: tuple[float, ...]
    against: str
    rows: dict[str, float]


@dataclass(frozen=True)
class Findings:
    """Printed values of an instrument by model. where: what its rows have in common.

    Ours is the mean over rows, at the longest length looked at. column: of the value in a row.
    """

    source: str
    note: str
    instrument: str
    state: str
    where: dict[str, str | int | float]
    column: str
    rows: dict[str, float | str]


Expected = Perplexities | Costs | Findings | Ranks | Answers
KEYS = {
    "perplexity": {"source", "perplexity", "at", "note", "protocol", "ratio_to"},
    "cost": {"source", "cost", "against", "at", "note", "protocol"},
    "instrument": {"source", "instrument", "values", "where", "note", "state", "column"},
    "ranks": {"source", "ranks", "note"},
    "exact_match": {"source", "exact_match", "task", "at", "note"},
}


def parse_expected(node: Any) -> Expected:
    """Return a block of a study file; ConfigError says what is wrong with it."""
    kinds = [kind for kind in KEYS if isinstance(node, dict) and kind in node]
    if len(kinds) != 1 or not isinstance(node.get("source"), str):
        raise ConfigError(f"expected: a block has a source and one of {', '.join(KEYS)}")
    kind, source = kinds[0], node["source"]
    unknown = sorted(set(node) - KEYS[kind])
    if unknown:
        raise ConfigError(f"expected, {source}: no key {unknown[0]!r}; there are "
                          f"{', '.join(sorted(KEYS[kind]))}")  # fmt: skip
    note = str(node.get("note", ""))
    if kind == "instrument":
        return Findings(
            source, note, str(node[kind]), str(node.get("state", TRAINED)),
            _mapping(node, "where", _is_value), str(node.get("column", "value")),
            _mapping(node, "values", _is_value),
        )  # fmt: skip
    if kind == "ranks":
        return Ranks(source, note, _mapping(node, kind, _is_number))
    at = node.get("at")
    if kind == "exact_match":
        if not (_is_number(at) and at > 0):
            raise ConfigError(f"expected, {source}: at={at} (a number above 0, in trained lengths)")
        return Answers(source, note, str(node.get("task")), at, _mapping(node, kind, _is_value))
    if not isinstance(at, list) or not at or not all(_is_number(x) and x > 0 for x in at):
        raise ConfigError(f"expected, {source}: at={at} (numbers above 0, in trained lengths)")
    at = tuple(at)
    protocol = str(node.get("protocol", "segments"))
    if kind == "cost":
        costs = _mapping(node, kind, _is_number)
        return Costs(source, note, protocol, at, str(node.get("against")), costs)
    rows = {name: tuple(values) for name, values in _mapping(node, kind, _is_row).items()}
    for name, values in rows.items():
        if len(values) != len(at):
            raise ConfigError(
                f"expected, {source}: {name} has {len(values)} values, at has {len(at)}"
            )
    return Perplexities(source, note, protocol, at, str(node.get("ratio_to", TRAINED)), rows)


def _mapping(node: dict[str, Any], key: str, is_right: Callable[[Any], bool]) -> dict[str, Any]:
    """Return the rows of a block by name; ConfigError for a row that is of another type."""
    rows = node.get(key, {})
    if isinstance(rows, dict):
        wrong = [n for n, value in rows.items() if not (isinstance(n, str) and is_right(value))]
        if not wrong:
            return rows
        rows = {wrong[0]: rows[wrong[0]]}
    raise ConfigError(f"expected, {node['source']}: {key}: {rows!r}: expected numbers by name")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MAX_NUMBER


def _is_value(value: Any) -> bool:
    return isinstance(value, str) or _is_number(value)


def _is_row(values: Any) -> bool:
    return isinstance(values, list) and all(v is None or _is_value(v) for v in values)


def names_of(block: Perplexities | Costs) -> list[str]:
    """Return the rows that a block refers to, each once."""
    names = list(block.rows)
    if isinstance(block, Costs):
        names.append(block.against)
    elif isinstance(block, Perplexities) and block.ratio_to != TRAINED:
        names.append(block.ratio_to)
    return list(dict.fromkeys(names))


def split_name(name: str) -> tuple[str, str]:
    """Split a row's name into the model with its variant, and the method."""
    model, _, method = name.rpartition(SEPARATOR)
    return model, method


def expected_table(block: Perplexities | Costs, all_series: Sequence[ResultSeries]) -> Table:
    """Make two rows for each printed row, the paper's and ours, a column for each place."""
    rows = []
    for name in block.rows:
        model, method = (TableCell(word) for word in split_name(name))
        rows.append((model, method, TableCell("printed"), *_printed(block, name)))
        rows.append((model, method, TableCell("ours"), *_ours(block, name, all_series)))
    if isinstance(block, Costs):
        what, base = "Cost", block.against
    else:
        what = "Perplexity"
        base = "the value at the trained length" if block.ratio_to == TRAINED else block.ratio_to
    notes = [f"In brackets: divided by {base}. Ours: mean over seeds, protocol {block.protocol}."]
    if isinstance(block, Costs):
        notes.append("Ours: wall-clock µs a scored token, with whatever else the machine did.")
    heads = ("model", "method", "", *(f"{x:g}x" for x in block.at))
    return Table(
        f"{what}, printed and ours: {block.source}", heads, tuple(rows), 3,
        (*notes, *filter(None, [block.note])), secondary=isinstance(block, Costs),
    )  # fmt: skip


def _printed(block: Perplexities | Costs, name: str) -> list[TableCell]:
    if isinstance(block, Costs):
        return [TableCell(f"({block.rows[name]:.3g})") for _ in block.at]
    values = block.rows[name]
    if block.ratio_to == TRAINED:
        trained = values[block.at.index(1)] if 1 in block.at else None
        bases = [trained] * len(values)
    else:
        bases = list(block.rows.get(block.ratio_to, [None] * len(values)))
    return [
        TableCell("" if value is None else value if isinstance(value, str) else _with(value, base))
        for value, base in zip(values, bases, strict=True)
    ]


def _ours(
    block: Perplexities | Costs, name: str, all_series: Sequence[ResultSeries]
) -> list[TableCell]:
    other = block.against if isinstance(block, Costs) else block.ratio_to
    fields = []
    for at in block.at:
        found = _find(block, name, at, all_series)
        base = (
            _find(block, name, 1, all_series)
            if other == TRAINED
            else _find(block, other, at, all_series)
        )
        if len(found) > 1:
            fields.append(TableCell("several rows", "failed"))
            continue
        value = _value(block, *found[0]) if found else ""
        if isinstance(value, str):
            fields.append(TableCell(value, "failed" if value else ""))
        else:
            same = [pair for pair in base if isinstance(block, Costs) or _same(*found[0], *pair)]
            one = same[0] if len(same) == 1 else None
            fields.append(TableCell(_with(value, _value(block, *one) if one else None)))
    return fields


def _find(
    block: Perplexities | Costs, name: str, at: float, all_series: Sequence[ResultSeries]
) -> list[tuple[ResultSeries, int]]:
    """Return the series of a row that have its length, one for each text, precision and request."""
    wanted = split_name(name)
    return [
        (series, length)
        for series in all_series
        if (length := round(at * series.train_len)) in series.results
        and (series.name, series.plain_method) == wanted
        and series.protocol.name == block.protocol
    ]


def _same(series: ResultSeries, length: int, base: ResultSeries, at: int) -> bool:
    """Return True if a ratio of both means something: of the same tokens in one precision."""
    return series.scored == base.scored and (series.protocol.paired or length == at)


def _value(block: Perplexities | Costs, series: ResultSeries, length: int) -> float | str:
    """Return our value, or why there is none."""
    if failure := series.short_failure(length):
        return failure
    results = series.results[length].values()
    if isinstance(block, Costs):
        seconds = sum(result.seconds for result in results)
        return 1e6 * seconds / sum(result.tokens for result in results) if seconds else ""
    return sum(result.ppl for result in results) / len(results)


def _with(value: float, base: Any) -> str:
    """Format a value, and its ratio to a base that is a number."""
    shown = f"{value:.2f}" if value < 1000 else f"{value:.0f}"
    has_base = isinstance(base, int | float) and math.isfinite(base) and base > 0
    return f"{shown} ({value / base:.3g})" if has_base else shown


def blocks_of(stored: Mapping[str, Any]) -> list[Expected]:
    """Return the expected blocks of a study file or of study.json."""
    return [parse_expected(node) for node in stored.get("expected") or ()]
