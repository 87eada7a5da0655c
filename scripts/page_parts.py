"""Parts of the pages of results: numbers, tables, paragraphs, the chart by length."""

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from result_cells import Cell, Difference, PlannedStudy, Results, is_sure

from lexp.display.document import Chart, Curve, Point
from lexp.display.png import chart_png
from lexp.system.text import counted

BEGIN, END = "<!-- results: written by python scripts/results_page.py -->", "<!-- /results -->"
BASE, WINDOW = "rope", "window"
NONE = "·"


def shown(d: Difference | None, sign: int = 1) -> str:
    """Return a difference with its interval, bold where that does not hold 0."""
    if d is None:
        return NONE
    text = f"{sign * d[0]:+.4f} ±{d[1]:.4f}"
    return f"**{text}**" if is_sure(d) else text


def perplexity(cell: Cell | None) -> str:
    """Return the perplexity, with half the range of the seeds where there are several."""
    if cell is None:
        return NONE
    seeds = [math.exp(nll) for nll in cell.each.values()]
    spread = (max(seeds) - min(seeds)) / 2
    return f"{math.exp(cell.nll):.2f}" + f" ±{spread:.2f}" * (len(seeds) > 1)


def named(names: Iterable[str]) -> str:
    """Return names as code, in a list: `a`, `b` and `c`."""
    *some, last = [f"`{name}`" for name in names] or ["none"]
    return f"{', '.join(some)} and {last}" if some else last


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], labels: int = 1) -> list[str]:
    """Return the lines of a Markdown table."""
    rule = ["---"] * labels + ["---:"] * (len(heads) - labels)
    return [f"| {' | '.join(line)} |" for line in (heads, rule, *rows)] + [""]


def wrapped(text: str, indent: str = "") -> list[str]:
    """Return the lines of a paragraph or list item, as wide as those of other pages."""
    hidden = re.sub(r"`[^`]+`", lambda span: span[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(
        hidden, 100, break_long_words=False, break_on_hyphens=False, subsequent_indent=indent
    )
    return [line.replace("\0", " ") for line in lines] + [""] * (not indent)


def items(texts: Iterable[str]) -> list[str]:
    """Return the lines of a list."""
    return [*(line for text in texts for line in wrapped(f"- {text}", "  ")), ""]


def made_by(results: Results) -> list[str]:
    """Say what the rows were made by."""
    made = {
        column: sorted({row[column] for row in results.rows if row[column]})
        for column in ("command", "commit", "processor", "precision")
    }
    commits = dict.fromkeys(commit[:7] for commit in made["commit"])
    noun = "commit" if len(commits) == 1 else "commits"
    return wrapped(
        f"Made by {named(made['command'])} ({noun} {', '.join(commits)}; "
        f"{', '.join(made['processor'])}; {', '.join(made['precision'])})."
    )


def missing(results: Results, study: PlannedStudy) -> list[str]:
    """Name what the study plans and the file has not."""
    left = [
        f"`{scheme}`" + f" (seed {', '.join(map(str, sorted(seeds - there)))})" * bool(there)
        for scheme, seeds in study.schemes.items()
        if seeds - (there := results.runs.get(scheme, set()))
    ]
    if not left:
        return wrapped("Nothing that the study plans is missing.")
    return wrapped(f"**Missing** (planned, not reached): {', '.join(left)}.")


def printed(results: Results, expected: list[Any]) -> list[str]:
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
    if not rows:
        return []
    heads = ("source", "row", "length", "printed", "ours")
    return ["### Printed and ours, under `segments`, relative to the trained length", "",
            *table(heads, rows, 3)]  # fmt: skip


def curves_by_length(results: Results, lines: Iterable[tuple[str, str]]) -> bytes:
    """Return the chart of perplexity by length, of (scheme, method) each."""
    curves = []
    for scheme, method in lines:
        points = [
            Point(n, math.exp(cell.nll))
            for n in results.lengths("fixed")
            if (cell := results.cell(scheme, method, n))
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
    return f"{head}{BEGIN}\n\n{part.rstrip()}\n\n{END}{tail}"
