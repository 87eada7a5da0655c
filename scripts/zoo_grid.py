"""A study's results.csv as scheme x method grids in Markdown, and as a picture.

Usage: python scripts/zoo_grid.py outputs/zoo/results.csv grid.png
"""

import csv
import math
import sys
from collections import defaultdict
from pathlib import Path

from lexp.display.heat import RATIOS
from lexp.display.heat_png import heat_map_png
from lexp.display.table import Table, TableCell

Key = tuple[str, str, int]  # scheme, method, length
Means = dict[Key, tuple[float, float | None]]


def read_means(path: Path) -> tuple[Means, int]:
    """Perplexity and half the seeds' range by (scheme, method, length); and the trained length.

    Only of the evaluation with the most documents; the range is None where there is one seed.
    """
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    most = max(int(row["tokens"]) for row in rows)
    found: dict[Key, list[float]] = defaultdict(list)
    for row in rows:
        if int(row["tokens"]) < most:
            continue
        extension = row["extension"]
        method = row["attention"] if extension == "none" else extension
        if extension != "none" and row["attention"] != "full":
            method = f"{row['attention']} {extension}"
        found[row["model"], method, int(row["length"])].append(float(row["ppl"]))
    means = {
        key: (sum(v) / len(v), (max(v) - min(v)) / 2 if len(v) > 1 else None)
        for key, v in found.items()
    }
    return means, int(rows[0]["train_len"])


def by_length(means: Means, train_len: int) -> str:
    """Each scheme as it was trained (plain attention, or its window), by length."""
    lengths = sorted({length for _, _, length in means})
    heads = [f"{n} (trained)" if n == train_len else str(n) for n in lengths]
    lines = ["| scheme | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    plain = as_trained(means, train_len)
    for scheme in sorted(plain, key=lambda s: value(means, s, plain[s], train_len)):
        texts = []
        for length in lengths:
            mean, spread = means.get((scheme, plain[scheme], length), (math.inf, None))
            text = "n/d" if math.isinf(mean) else f"{mean:.2f}"
            texts.append(text if spread is None else f"{text} ±{spread:.2f}")
        lines.append(f"| {scheme} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def as_trained(means: Means, train_len: int) -> dict[str, str]:
    """By scheme: the pattern it was trained in."""
    schemes = {s for s, _, _ in means}
    return {s: "trained" if (s, "trained", train_len) in means else "full" for s in schemes}


def at_length(means: Means, length: int, methods: list[str]) -> str:
    """Scheme x method at one length; bold: best method of the scheme."""
    lines = ["| scheme | " + " | ".join(methods) + " |", "| --- |" + " ---: |" * len(methods)]
    for scheme in sorted({s for s, _, _ in means}):
        values = [value(means, scheme, method, length) for method in methods]
        best = min(values)
        texts = [
            "·"
            if math.isinf(v)
            else f"**{v:.2f}**"
            if round(v, 2) == round(best, 2)
            else f"{v:.2f}"
            for v in values
        ]
        lines.append(f"| {scheme} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def value(means: Means, scheme: str, method: str, length: int) -> float:
    """A perplexity, infinite where there is none."""
    return means.get((scheme, method, length), (math.inf, None))[0]


def draw(means: Means, train_len: int, path: Path) -> None:
    """How many times the perplexity at the trained length is reached at the longest one."""
    longest = max(length for _, _, length in means)
    methods = methods_of(means)
    plain = as_trained(means, train_len)

    def ratio(scheme: str, method: str) -> float:
        return value(means, scheme, method, longest) / value(
            means, scheme, plain[scheme], train_len
        )

    def cell(ratio: float) -> TableCell:
        return TableCell(f"{ratio:.2f}", RATIOS.style(ratio)) if math.isfinite(ratio) else EMPTY

    rows = tuple(
        (TableCell(scheme), *(cell(ratio(scheme, method)) for method in methods))
        for scheme in sorted(plain, key=lambda scheme: ratio(scheme, plain[scheme]))
    )
    table = Table(
        f"Perplexity at {longest} tokens relative to the trained {train_len}",
        ("scheme", *(method.replace("_", "\n").replace(" ", "\n") for method in methods)), rows, 1,
        ("Divided by the perplexity of the scheme as it was trained, at its trained length; sorted "
         "by that of the scheme as it was trained. Empty: not defined or not run.",),
    )  # fmt: skip
    path.write_bytes(heat_map_png(table))


EMPTY = TableCell("")
ORDER = [
    "full", "trained", "blockwise", "blockwise_sinks", "window", "window_sinks", "lm_infinite",
    "self_extend", "rerope", "leaky_rerope", "dual_chunk",
]  # fmt: skip


def methods_of(means: Means) -> list[str]:
    """Patterns in a fixed order, then extensions by name."""
    found = {method for _, method, _ in means}
    return [m for m in ORDER if m in found] + sorted(found - set(ORDER))


if __name__ == "__main__":
    table, trained_at = read_means(Path(sys.argv[1]))
    far = max(length for _, _, length in table)
    print(by_length(table, trained_at), "\n")
    every = methods_of(table)
    print(at_length(table, far, [m for m in every if m in ORDER]), "\n")
    print(at_length(table, far, ["full", *(m for m in every if m not in ORDER)]))
    draw(table, trained_at, Path(sys.argv[2]))
