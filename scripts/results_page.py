"""Write the generated part of docs/results.md and docs/results.png from docs/results.csv.

Usage: python scripts/results_page.py. The file is the results file of study=reference; a test fails
where the page is stale. Every interval is made from the losses of documents in `by_document`, with
the same bootstrap as in reports.
"""

import itertools
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lexp.commands.study.results_file import read_results_file
from lexp.display.document import Chart, Curve, Point
from lexp.display.png import chart_png
from lexp.statistics.clustered import DRAWS, LEVEL, half_width
from lexp.system.text import counted

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURE = ROOT / "docs" / "results.md", ROOT / "docs" / "results.png"
FILE, STUDY = ROOT / "docs" / "results.csv", ROOT / "conf" / "study" / "reference.yaml"
BEGIN, END = "<!-- results: written by python scripts/results_page.py -->", "<!-- /results -->"
BASE, WINDOW = "rope", "window"
PLAIN = ("full", "trained")
METHODS = ("full", "trained", "blockwise", "window", "window_sinks", "self_extend", "ntk", "yarn")
NONE = "·"


@dataclass(frozen=True)
class Cell:
    """The losses of a scheme under one method, protocol and length, mean over its seeds.

    sums, sizes: nats and tokens of each document [documents]. ppl: of each seed. what: text,
    protocol and targets, which two cells must share to be compared.
    """

    sums: np.ndarray
    sizes: np.ndarray
    ppl: tuple[float, ...]
    what: tuple[str, ...]

    @property
    def nll(self) -> float:
        """Return total nats / total tokens."""
        return float(self.sums.sum() / self.sizes.sum())


Key = tuple[str, str, str, int]  # scheme, method, protocol, length


@dataclass(frozen=True)
class Results:
    """The rows of the file. runs: seeds by scheme. cells: those with a number."""

    rows: tuple[dict[str, str], ...]
    runs: dict[str, set[int]]
    cells: dict[Key, Cell]
    train_len: int

    def plain(self, scheme: str) -> str:
        """Return the pattern that a scheme was trained in: full, or its own."""
        has_full = any(key[:2] == (scheme, "full") for key in self.cells)
        return "full" if has_full else "trained"

    def lengths(self, protocol: str) -> list[int]:
        """Return every length under a protocol."""
        return sorted({key[3] for key in self.cells if key[2] == protocol})


def read(path: Path) -> Results:
    """Return the results of a file, the runs of each scheme put together."""
    rows = read_results_file(path).rows
    seeds: dict[Key, list[dict[str, str]]] = {}
    runs: dict[str, set[int]] = {}
    for row in rows:
        runs.setdefault(row["model"], set()).add(int(row["seed"]))
        method = row["attention"] if row["extension"] == "none" else row["extension"]
        key = row["model"], method, _protocol(row), int(row["length"])
        if row["status"] == "ok":
            seeds.setdefault(key, []).append(row)
    cells = {key: _cell(found) for key, found in seeds.items()}
    return Results(rows, runs, cells, int(rows[0]["train_len"]) if rows else 0)


def _protocol(row: dict[str, str]) -> str:
    """Return segments, fixed, or within: fixed targets with no more context than was trained."""
    name, *_, longest = row["protocol"].split("-")
    return "within" if name == "fixed" and int(longest) <= int(row["train_len"]) else name


def _cell(rows: list[dict[str, str]]) -> Cell:
    whats = {tuple(row[c] for c in ("text", "protocol", "targets", "documents")) for row in rows}
    if len(whats) > 1:
        raise SystemExit(f"{rows[0]['model']}: its seeds were scored on unlike tokens; {FILE}")
    pairs = [
        [tuple(map(float, word.split("/"))) for word in row["by_document"].split()] for row in rows
    ]
    nats, sizes = np.moveaxis(np.array(pairs), 2, 0)
    return Cell(nats.mean(0), sizes[0], tuple(float(row["ppl"]) for row in rows), whats.pop())


def wanted(study: Path) -> dict[str, set[int]]:
    """Return the schemes that scale=mini of a study trains, with their seeds, in order."""
    stages = yaml.safe_load(study.read_text(encoding="utf-8"))["scales"]["mini"]["train"]
    found: dict[str, set[int]] = {}
    for stage in stages:
        models = _list(stage.get("model.name", stage["model"]))
        for model, seed in itertools.product(models, _list(stage["seed"])):
            found.setdefault(model, set()).add(seed)
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def difference(a: Cell | None, b: Cell | None) -> tuple[float, float] | None:
    """Return the mean of a - b in nats per token and half its interval; None without both."""
    if a is None or b is None:
        return None
    if a.what != b.what:
        raise SystemExit(f"not the same tokens: {a.what} and {b.what}")
    sums = a.sums - b.sums
    half, _ = half_width(sums, a.sizes, LEVEL, DRAWS, 0)
    return float(sums.sum() / a.sizes.sum()), half


def shown(d: tuple[float, float] | None, sign: int = 1) -> str:
    """Return a difference with its interval, bold where that does not hold 0."""
    if d is None:
        return NONE
    value, half = sign * d[0], d[1]
    text = f"{value:+.4f} ±{half:.4f}"
    return f"**{text}**" if abs(value) > half else text


def perplexity(cell: Cell | None) -> str:
    """Return the perplexity, with half the range of the seeds where there are several."""
    if cell is None:
        return NONE
    spread = (max(cell.ppl) - min(cell.ppl)) / 2
    return f"{math.exp(cell.nll):.2f}" + f" ±{spread:.2f}" * (len(cell.ppl) > 1)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], labels: int = 1) -> list[str]:
    """Return the lines of a Markdown table."""
    rule = ["---"] * labels + ["---:"] * (len(heads) - labels)
    return [f"| {' | '.join(line)} |" for line in (heads, rule, *rows)] + [""]


def wrapped(text: str) -> list[str]:
    """Return the lines of a paragraph, as wide as those of other pages."""
    lines = textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)
    return [*lines, ""]


def generated(results: Results, schemes: dict[str, set[int]], expected: list[Any]) -> str:
    """Return the generated part of the page."""
    order = [scheme for scheme in schemes if scheme in results.runs]
    lines = _missing(results, schemes)
    if order:
        lines = [*_facts(results), *lines, *_criterion(results), *_by_length(results, order)]
        lines += [*_methods(results, order), *_far(results, order), *_printed(results, expected)]
    return "\n".join(lines).rstrip() + "\n"


def _facts(results: Results) -> list[str]:
    """Say what the rows were made by."""
    made = {
        column: ", ".join(sorted({row[column] for row in results.rows if row[column]}))
        for column in ("command", "commit", "processor", "precision")
    }
    commits = sorted({row["commit"][:7] for row in results.rows if row["commit"]})
    return wrapped(
        f"Made by `{made['command']}` (commits {', '.join(commits)}; {made['processor']}; "
        f"{made['precision']})."
    )


def _missing(results: Results, schemes: dict[str, set[int]]) -> list[str]:
    """Name what the study trains and the file has not."""
    left = [
        f"`{scheme}`" + f" (seed {', '.join(map(str, sorted(seeds - there)))})" * bool(there)
        for scheme, seeds in schemes.items()
        if seeds - (there := results.runs.get(scheme, set()))
    ]
    if not left:
        return wrapped("Nothing that the study plans is missing.")
    return wrapped(f"**Missing** (planned, not reached): {', '.join(left)}.")


def _criterion(results: Results) -> list[str]:
    """Say whether RoPE uses its context: the gain from a quarter of the trained length."""
    d = _gain(results, BASE)
    if d is None:
        return []
    verdict = "met" if d[0] > d[1] else "NOT met: the budget is too small"
    return wrapped(
        f"Criterion: from {results.train_len // 4} to {results.train_len} tokens of context RoPE "
        f"gains {d[0]:.4f} nats per token, [{d[0] - d[1]:.4f}, {d[0] + d[1]:.4f}]: {verdict}."
    )


def _gain(results: Results, scheme: str) -> tuple[float, float] | None:
    """Return what a scheme gains from a quarter of the trained length to all of it."""
    own = results.plain(scheme)
    ends = (results.train_len // 4, results.train_len)
    return difference(*[results.cells.get((scheme, own, "within", n)) for n in ends])


def _at(
    results: Results, a: str, a_method: str, a_len: int, b: str, b_method: str, b_len: int
) -> tuple[float, float] | None:
    """Return the difference of two cells under `fixed`."""
    get = results.cells.get
    return difference(get((a, a_method, "fixed", a_len)), get((b, b_method, "fixed", b_len)))


def _by_length(results: Results, order: list[str]) -> list[str]:
    train_len, lengths = results.train_len, results.lengths("fixed")
    longest = max(lengths)
    heads = [f"{n} (trained)" if n == train_len else str(n) for n in lengths]
    heads = ["scheme", "seeds", *heads, f"gain {train_len // 4} to {train_len}",
             f"gain {train_len} to {longest}", f"minus `{BASE}` at {train_len}"]  # fmt: skip
    rows = []
    for scheme in order:
        own = results.plain(scheme)
        at_length = [results.cells.get((scheme, own, "fixed", n)) for n in lengths]
        quarter = _gain(results, scheme)
        far = _at(results, scheme, own, train_len, scheme, own, longest)
        base = _at(results, scheme, own, train_len, BASE, "full", train_len)
        rows.append([
            f"`{scheme}`", str(len(results.runs[scheme])), *map(perplexity, at_length),
            shown(quarter), shown(far), "" if scheme == BASE else shown(base),
        ])  # fmt: skip
    return ["### As trained, by length", "", *table(heads, rows)]


def _methods(results: Results, order: list[str]) -> list[str]:
    longest = max(results.lengths("fixed"))
    methods = [m for m in METHODS if any(key[1] == m for key in results.cells)]
    rows = []
    for scheme in order:
        cells = [results.cells.get((scheme, m, "fixed", longest)) for m in methods]
        best = min((cell.nll for cell in cells if cell), default=math.nan)
        texts = [
            f"**{perplexity(cell)}**" if cell and cell.nll < best + 5e-4 else perplexity(cell)
            for cell in cells
        ]
        rows.append([f"`{scheme}`", *texts])
    title = f"### Methods at {longest} tokens"
    return [title, "", *table(["scheme", *methods], rows)]


def _far(results: Results, order: list[str]) -> list[str]:
    """Compare at the longest length: with the own window, and with the baseline's."""
    longest = max(results.lengths("fixed"))
    rows = []
    for scheme in order:
        own = results.plain(scheme)
        far = scheme, own, longest
        bca = scheme, "blockwise", longest
        rows.append([
            f"`{scheme}`",
            shown(_at(results, *far, scheme, WINDOW, longest)),
            shown(_at(results, *bca, scheme, WINDOW, longest)),
            shown(_at(results, *far, BASE, WINDOW, longest)),
            "" if scheme == BASE else
            shown(_at(results, scheme, WINDOW, longest, BASE, WINDOW, longest)),
        ])  # fmt: skip
    heads = ("scheme", "as trained minus its window", "BCA minus its window",
             f"as trained minus `{BASE}` in its window",
             f"its window minus `{BASE}` in its window")  # fmt: skip
    return [f"### Differences at {longest} tokens", "", *table(heads, rows)]


def _printed(results: Results, expected: list[Any]) -> list[str]:
    """Put printed perplexities beside ours, both relative to the trained length."""
    rows = []
    for block in expected:
        base = block["at"].index(1)
        for name, values in block["perplexity"].items():
            scheme, method = name.split(", ")
            ours = [
                results.cells.get((scheme, method, "segments", round(at * results.train_len)))
                for at in block["at"]
            ]
            trained = ours[base]
            if trained is None:
                continue
            for at, value, cell in zip(block["at"], values, ours, strict=True):
                if at > 1 and cell:
                    ratio = math.exp(cell.nll - trained.nll)
                    rows.append([block["source"].split(", ")[0], f"`{name}`", f"{at:g}x",
                                 f"{value / values[base]:#.3g}", f"{ratio:#.3g}"])  # fmt: skip
    heads = ("source", "row", "length", "printed", "ours")
    return ["### Printed and ours, under `segments`, relative to the trained length", "",
            *table(heads, rows, 3)]  # fmt: skip


def picture(results: Results, schemes: dict[str, set[int]]) -> bytes:
    """Return the chart: each scheme as it was trained, and RoPE under BCA and in a window."""
    lines = [(s, results.plain(s)) for s in schemes if s in results.runs]
    lines += [(BASE, method) for method in ("blockwise", WINDOW)]
    curves = []
    for scheme, method in lines:
        points = [
            Point(n, math.exp(cell.nll))
            for n in results.lengths("fixed")
            if (cell := results.cells.get((scheme, method, "fixed", n)))
        ]
        curves.append(Curve(scheme, method, tuple(points)))
    runs = counted(len({row["run"] for row in results.rows}), "run")
    title = f"Perplexity by context length: {runs}, trained at {results.train_len} tokens"
    return chart_png(Chart(
        title, "context length (tokens)", "perplexity per token", True, True, tuple(curves),
        ((float(results.train_len), "trained"),), label="the same targets at every length",
    ))  # fmt: skip


def page(text: str, part: str) -> str:
    """Return a page with its generated part replaced."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{part}\n{END}{tail}"


def main() -> None:
    """Write the page and the picture."""
    results, schemes = read(FILE), wanted(STUDY)
    expected = yaml.safe_load(STUDY.read_text(encoding="utf-8"))["expected"]
    text = page(PAGE.read_text(encoding="utf-8"), generated(results, schemes, expected))
    PAGE.write_text(text, encoding="utf-8")
    if results.cells:
        PICTURE.write_bytes(picture(results, schemes))
    print(f"{PAGE.name}, {PICTURE.name}: {len(results.rows)} rows")


if __name__ == "__main__":
    main()
