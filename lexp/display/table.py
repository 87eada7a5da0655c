"""A table, and how it is written for a terminal, in Markdown and as CSV."""

import csv
import io
import itertools
import re
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from lexp.display.heat import COLOURS
from lexp.system.output import csv_cell
from lexp.system.text import printable

STYLES = ("", "best", "failed", "muted", *COLOURS)
RICH = {
    "": "", "best": "bold green", "failed": "red", "muted": "dim", **dict.fromkeys(COLOURS, ""),
}  # fmt: skip


@dataclass(frozen=True)
class TableCell:
    """One cell of a table. style: one of STYLES. framed: with a border, on pages and pictures."""

    text: str
    style: str = ""
    framed: bool = False

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"style={self.style!r}: allowed are {', '.join(map(repr, STYLES))}")


@dataclass(frozen=True)
class Table:
    """A table with rows as wide as heads. The left n_labels cells name the row; notes go below.

    secondary: on the page and in its files, but not printed in the terminal.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    n_labels: int = 1
    notes: tuple[str, ...] = ()
    secondary: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.heads):
                raise ValueError(f"{self.title}: {len(row)} cells under {len(self.heads)} heads")

    def begins_group(self, n: int) -> bool:
        """Return True if row n has another model than the row above it.

        Always False where every row has another model: separating all rows would separate none.
        """
        names = [row[0].text for row in self.rows] if self.n_labels > 1 else []
        if n == 0 or all(a != b for a, b in itertools.pairwise(names)):
            return False
        return names[n] != names[n - 1]


def to_rich(table: Table) -> RichTable:
    """Return the table for a terminal, without its notes; best in bold green, failures in red."""
    drawn = RichTable(title=Text(printable(table.title), style="italic"))
    for n, head in enumerate(table.heads):
        right = n >= table.n_labels
        drawn.add_column(
            Text(printable(head)), justify="right" if right else "left", overflow="fold"
        )
    for n, row in enumerate(table.rows):
        if table.begins_group(n):
            drawn.add_section()
        drawn.add_row(*(Text(printable(cell.text), style=RICH[cell.style]) for cell in row))
    return drawn


def in_parts(table: Table, width: int) -> list[Table]:
    """Return a table as several whose columns fit a width, in characters; labels in each."""
    widths = [
        max(cell_len(printable(text)) for text in (head, *(row[n].text for row in table.rows))) + 3
        for n, head in enumerate(table.heads)
    ]
    labels = list(range(table.n_labels))
    room = width - 1 - sum(widths[: table.n_labels])
    parts: list[list[int]] = [[]]
    for n in range(table.n_labels, len(widths)):
        if parts[-1] and sum(widths[m] for m in [*parts[-1], n]) > room:
            parts.append([])
        parts[-1].append(n)
    return [
        replace(
            table,
            heads=tuple(table.heads[n] for n in [*labels, *part]),
            rows=tuple(tuple(row[n] for n in [*labels, *part]) for row in table.rows),
        )
        for part in parts
    ]


def to_markdown(table: Table) -> str:
    """Return the table in Markdown with its notes below; best in bold."""
    align = ["---" if n < table.n_labels else "---:" for n in range(len(table.heads))]
    lines = [f"**{in_markdown(table.title)}**", ""] if table.title else []
    lines += [_line([in_markdown(head) for head in table.heads]), _line(align)]
    for row in table.rows:
        texts = [in_markdown(cell.text) for cell in row]
        bold = [
            f"**{t}**" if f.style == "best" and t else t for f, t in zip(row, texts, strict=True)
        ]
        lines.append(_line(bold))
    if table.notes:
        lines += ["", "  \n".join(in_markdown(note) for note in table.notes)]
    return "\n".join([*lines, ""])


def to_csv(table: Table) -> str:
    """Return heads and rows as CSV; no cell is a formula to a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([csv_cell(head) for head in table.heads])
    for row in table.rows:
        writer.writerow([csv_cell(cell.text) for cell in row])
    return buffer.getvalue()


def in_markdown(text: str) -> str:
    """Return Markdown that shows the text itself: no markup, no HTML, no further column."""
    text = re.sub(r"([\\`*|~$\[\]])", r"\\\1", printable(text))
    # Inside a word an underscore is only itself, and most names have one.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def prose_in_markdown(text: str) -> str:
    """Return paragraphs in Markdown that show the text itself; indented ones are formulas."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n")
        is_formula = all(line.startswith("    ") for line in lines)
        paragraphs.append("\n".join(map(printable if is_formula else in_markdown, lines)))
    return "\n\n".join(paragraphs)


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"
