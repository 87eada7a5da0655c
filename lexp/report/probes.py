"""Probes as tables: one a probe, a row per (variant, method), a column per length; their CSV."""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from lexp.files import write_text
from lexp.probes.cells import COLUMNS, ProbeCell, Result, interval, read_result
from lexp.report.table import SHORT


@dataclass(frozen=True)
class ProbeEntry:
    """What one place of a table shows: two lines, or a failure. used: gain is surely above 0."""

    lines: tuple[str, ...]
    used: bool


@dataclass(frozen=True)
class ProbeRow:
    """A variant under one method: its name in the columns of labels, and entries by length."""

    labels: tuple[str, ...]
    entries: dict[int, ProbeEntry]


@dataclass(frozen=True)
class ProbeTable:
    """The table of one probe before it is drawn."""

    title: str
    heads: tuple[str, ...]
    lengths: tuple[int, ...]
    train_len: int | None
    rows: tuple[ProbeRow, ...]

    @property
    def columns(self) -> list[str]:
        """All headings, the trained length marked."""
        marked = [f"{n} (trained)" if n == self.train_len else str(n) for n in self.lengths]
        return [*self.heads, *marked]


def write_probes(study: Path) -> None:
    """Write <study>/probes.csv with all cells found in the study's runs, failures included."""
    found = (read_result(path) for path in sorted(study.glob("*/probes/*.json")))
    cells = [result.cell for result in found if result]
    cells.sort(
        key=lambda c: (c.probe, c.run, c.attention, c.extension, c.samples, c.probe_seed, c.length)
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in cells:
        writer.writerow([_text(getattr(cell, column)) for column in COLUMNS])
    write_text(study / "probes.csv", buffer.getvalue())


def make_tables(results: list[Result], notes: dict[str, str]) -> list[ProbeTable]:
    """One table a probe; notes: by variant, what tells it apart. Seeds of a variant are averaged,
    and a failure of any of them is shown, not averaged away."""
    tables = []
    heads: dict[str, Callable[[ProbeCell], str]] = {
        "model": lambda c: c.model, "attention": lambda c: c.attention,
    }  # fmt: skip
    if any(result.cell.extension != "none" for result in results):
        heads["extension"] = lambda c: "" if c.extension == "none" else c.extension
    if any(notes.get(result.cell.variant) for result in results):
        heads["variant"] = lambda c: notes.get(c.variant, "")
    for probe in dict.fromkeys(result.cell.probe for result in results):
        groups: dict[tuple, dict[int, list[Result]]] = {}
        for result in (r for r in results if r.cell.probe == probe):
            c = result.cell
            key = (c.model, c.variant, c.text, c.attention, c.extension, c.precision)
            groups.setdefault(key, {}).setdefault(c.length, []).append(result)
        rows = []
        for by_length in groups.values():
            one = next(iter(by_length.values()))[0].cell
            entries = {length: _entry(found) for length, found in by_length.items()}
            rows.append(ProbeRow(tuple(label(one) for label in heads.values()), entries))
        train_lens = {r.cell.train_len for r in results}
        tables.append(
            ProbeTable(
                title=probe,
                heads=tuple(heads),
                lengths=tuple(sorted({r.cell.length for r in results})),
                train_len=train_lens.pop() if len(train_lens) == 1 else None,
                rows=tuple(rows),
            )
        )
    return tables


def probes_to_rich(made: ProbeTable) -> Table:
    """The table for a terminal, without its caption."""
    table = Table(title=made.title)
    for n, head in enumerate(made.columns):
        table.add_column(head, justify="left" if n < len(made.heads) else "right", no_wrap=True)
    before = None
    for row in made.rows:
        if before not in (None, row.labels[0]):
            table.add_section()
        before = row.labels[0]
        line = [Text(label) for label in row.labels]
        for length in made.lengths:
            entry = row.entries.get(length, ProbeEntry((), False))
            line.append(Text("\n".join(entry.lines), style="bold green" if entry.used else ""))
        table.add_row(*line)
    return table


def probes_to_markdown(made: ProbeTable) -> str:
    """The table in Markdown, without its caption."""
    align = ["---"] * len(made.heads) + ["---:"] * len(made.lengths)
    lines = [f"**{made.title}**", "", _line(made.columns), _line(align)]
    for row in made.rows:
        texts = list(row.labels)
        for length in made.lengths:
            entry = row.entries.get(length, ProbeEntry((), False))
            text = "<br>".join(entry.lines)
            texts.append(f"**{text}**" if entry.used else text)
        lines.append(_line(texts))
    return "\n".join([*lines, ""])


def probes_caption(results: list[Result]) -> list[str]:
    """What stands below the tables: how to read them, what was asked, the reasons of failures."""
    cells = [result.cell for result in results]
    seeds = sorted({c.seed for c in cells})
    chances = {c.probe: c.chance for c in cells if not math.isnan(c.chance)}
    chance = "".join(f", {name} by chance {100 * x:.3g}" for name, x in chances.items())
    trained = ", ".join(str(n) for n in sorted({c.train_len for c in cells}))
    spread = f"; mean of seeds {', '.join(map(str, seeds))} ± half their range" * (len(seeds) > 1)
    lines = [
        "First line, in %: whole answers right / answer tokens right / the answer likelier than "
        f"all candidates{chance}.",
        "Second line: gain in nats per answer token, its loss after the control (another answer "
        "planted) less its loss after the right one, with its 95 % interval over examples. Bold: "
        "all of that above 0 (of cells that use nothing, one in 40 by chance).",
        f"{cells[0].samples} examples a cell, the same for all rows; trained at {trained} tokens"
        f"{spread}.",
    ]
    reasons: dict[tuple[str, str], set[str]] = {}
    for result in (r for r in results if not r.cell.ok):
        key = SHORT[result.cell.status], result.reason
        reasons.setdefault(key, set()).add(result.cell.model)
    return lines + [
        f"{short} ({', '.join(sorted(models))}): {why}."
        for (short, why), models in sorted(reasons.items())
    ]


def _entry(results: list[Result]) -> ProbeEntry:
    cells = [result.cell for result in results]
    failed = [cell for cell in cells if not cell.ok]
    if failed:
        some = 0 < len(failed) < len(cells)
        text = SHORT[failed[0].status] + (f" {len(failed)}/{len(cells)}" if some else "")
        return ProbeEntry((text,), used=False)
    shares = [
        _share([cell.accuracy for cell in cells]),
        _share([cell.token_accuracy for cell in cells]),
        _share([cell.candidate_accuracy for cell in cells]),
    ]
    # Seeds answered the same examples: their mean gain per example is what is resampled.
    gains = np.mean([r.scores.example_gain for r in results if r.scores is not None], axis=0)
    # To the digits shown: a millionth of a nat may be sure and is no use. Plus 0: no minus zero.
    mean, low, high = (round(x, 3) + 0.0 for x in (float(gains.mean()), *interval(gains)))
    second = f"{mean:+.3f} [{low:.3f}, {high:.3f}]"
    return ProbeEntry((" / ".join(shares), second), used=low > 0)


def _share(values: list[float]) -> str:
    """A mean in percent, and half the range of several."""
    if any(math.isnan(value) for value in values):
        return "-"
    spread = f"±{50 * (max(values) - min(values)):.0f}" if len(values) > 1 else ""
    return f"{100 * sum(values) / len(values):.0f}{spread}"


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def _text(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value
