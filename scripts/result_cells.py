"""The numbers of a study's results file: a cell for each scheme, method, protocol and length.

Every interval is made from the losses of documents in `by_document`, with the bootstrap of reports.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lexp.commands.study.file import expanded
from lexp.commands.study.results_file import read_results_file
from lexp.statistics import Reach, TokenLosses, reach
from lexp.statistics.clustered import DRAWS, LEVEL, half_width

ROOT = Path(__file__).resolve().parents[1]
DELTA = 0.05  # nats per token, as in conf/report.yaml
Key = tuple[str, str, str, int]  # scheme, method, protocol, length
Difference = tuple[float, float]  # nats per token, and half of its interval


@dataclass(frozen=True)
class Cell:
    """The losses of a scheme under one method, protocol and length, mean over its seeds.

    sums, sizes: nats and tokens of each document [documents]. each: nats per token by seed. what:
    text, protocol and targets, which two cells must share to be compared.
    """

    sums: np.ndarray
    sizes: np.ndarray
    each: dict[int, float]
    what: tuple[str, ...]

    @property
    def nll(self) -> float:
        """Return total nats / total tokens."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def half(self) -> float:
        """Return half of the interval of the loss, over documents."""
        return half_width(self.sums, self.sizes, LEVEL, DRAWS, 0)[0]


@dataclass(frozen=True)
class Results:
    """The rows of a study. runs: seeds by scheme. cells: those with a number."""

    rows: tuple[dict[str, str], ...]
    runs: dict[str, set[int]]
    cells: dict[Key, Cell]
    train_len: int

    def plain(self, scheme: str) -> str:
        """Return the pattern that a scheme was trained in: its own if it was evaluated, or full."""
        has_own = any(key[:2] == (scheme, "trained") for key in self.cells)
        return "trained" if has_own else "full"

    def lengths(self, protocol: str) -> list[int]:
        """Return every length under a protocol."""
        return sorted({key[3] for key in self.cells if key[2] == protocol})

    def cell(self, scheme: str, method: str, length: int, protocol: str = "fixed") -> Cell | None:
        """Return a cell, None where there is no number; method "": as the scheme was trained."""
        return self.cells.get((scheme, method or self.plain(scheme), protocol, length))


@dataclass(frozen=True)
class PlannedStudy:
    """What scale=mini of a study file plans: the seeds of each scheme, and printed numbers."""

    name: str
    schemes: dict[str, set[int]]
    expected: list[Any]
    file: Path


def planned(name: str) -> PlannedStudy:
    """Return what a study plans, its schemes in the order of their trainings."""
    text = (ROOT / "conf" / "study" / f"{name}.yaml").read_text(encoding="utf-8")
    node = yaml.safe_load(text)
    scale, found = node["scales"]["mini"], {}
    for stage in scale["train"]:
        models = _list(expanded("model", stage.get("model.name", stage["model"])))
        for model, seed in itertools.product(models, _list(stage["seed"])):
            found.setdefault(model, set()).add(seed)
    return PlannedStudy(name, found, node.get("expected", []), ROOT / scale["results"])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def read(path: Path, schemes: dict[str, set[int]]) -> Results:
    """Return the results that a file has of some schemes, the runs of each put together."""
    rows = tuple(
        row for row in read_results_file(path).rows
        if int(row["seed"]) in schemes.get(row["model"], set())
    )  # fmt: skip
    seeds: dict[Key, list[dict[str, str]]] = {}
    runs: dict[str, set[int]] = {}
    for row in sorted(rows, key=lambda row: int(row["seed"])):
        runs.setdefault(row["model"], set()).add(int(row["seed"]))
        key = row["model"], _method(row), _protocol(row), int(row["length"])
        if row["status"] == "ok":
            seeds.setdefault(key, []).append(row)
    cells = {key: _cell(found) for key, found in seeds.items()}
    return Results(rows, runs, cells, int(rows[0]["train_len"]) if rows else 0)


def _method(row: dict[str, str]) -> str:
    """Return the pattern, or the extension; with the pattern's name where it is one to choose."""
    if row["extension"] == "none":
        return row["attention"]
    is_own = row["attention"] in ("full", "trained")
    return row["extension"] if is_own else f"{row['attention']} {row['extension']}"


def _protocol(row: dict[str, str]) -> str:
    """Return segments, fixed, or within: fixed targets with no more context than was trained."""
    name, *_, longest = row["protocol"].split("-")
    return "within" if name == "fixed" and int(longest) <= int(row["train_len"]) else name


def _cell(rows: list[dict[str, str]]) -> Cell:
    whats = {tuple(row[c] for c in ("text", "protocol", "targets", "documents")) for row in rows}
    if len(whats) > 1:
        raise SystemExit(f"{rows[0]['model']}: its seeds were scored on unlike tokens")
    if len({row["seed"] for row in rows}) < len(rows):
        raise SystemExit(f"{rows[0]['model']}: {_method(rows[0])} has two rows of a seed")
    pairs = [
        [tuple(map(float, word.split("/"))) for word in row["by_document"].split()] for row in rows
    ]
    nats, sizes = np.moveaxis(np.array(pairs), 2, 0)
    each = {int(row["seed"]): math.log(float(row["ppl"])) for row in rows}
    return Cell(nats.mean(0), sizes[0], each, whats.pop())


def difference(a: Cell | None, b: Cell | None) -> Difference | None:
    """Return the mean of a - b in nats per token and half its interval; None without both."""
    if a is None or b is None:
        return None
    if a.what != b.what:
        raise SystemExit(f"not the same tokens: {a.what} and {b.what}")
    sums = a.sums - b.sums
    half, _ = half_width(sums, a.sizes, LEVEL, DRAWS, 0)
    return float(sums.sum() / a.sizes.sum()), half


def is_sure(d: Difference | None) -> bool:
    """Return True if there is a difference and its interval excludes 0."""
    return d is not None and abs(d[0]) > d[1]


def gain_within(results: Results, scheme: str) -> Difference | None:
    """Return what a scheme gains from a quarter of the trained length to all of it.

    On the smaller blocks of an evaluation within the trained length, where there is one.
    """
    protocol = "within" if results.lengths("within") else "fixed"
    ends = (results.train_len // 4, results.train_len)
    return difference(*[results.cell(scheme, "", n, protocol) for n in ends])


def reach_of(results: Results, scheme: str, method: str = "") -> Reach:
    """Return the reach of a scheme under `fixed`, as `lexp report` defines it."""
    by_length: dict[int, TokenLosses | str] = {}
    for length in results.lengths("fixed"):
        cell = results.cell(scheme, method, length)
        by_length[length] = "no number" if cell is None else _as_losses(cell)
    return reach(by_length, results.train_len, DELTA)


def _as_losses(cell: Cell) -> TokenLosses:
    """Return losses with the totals of a cell's documents, all that an interval depends on."""
    sizes = cell.sizes.astype(int)
    document = np.repeat(np.arange(len(sizes)), sizes)
    nats = np.repeat(cell.sums / cell.sizes, sizes)
    return TokenLosses(nats, document, np.arange(len(nats)))
