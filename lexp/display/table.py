"""A table, and how it is written for a terminal, in Markdown and as CSV."""

import csv
import io
import itertools
import re
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text

from lexp.system.text import printable

STYLES = ("", "best", "failed", "muted")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
# Beginnings that a spreadsheet takes for a formula; the last four are the full-width forms.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
RICH = {"": "", "best": "bold green", "failed": "red", "muted": "dim"}


@dataclass(frozen=True)
class TableCell:
    """One cell of a table. style: one of STYLES."""

    text: str
    style: str = ""

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
        drawn.add_column(Text(printable(head)), justify="right" if right else "left")
    for n, row in enumerate(table.rows):
        if table.begins_group(n):
            drawn.add_section()
        drawn.add_row(*(Text(printable(cell.text), style=RICH[cell.style]) for cell in row))
    return drawn


def to_markdown(table: Table) -> str:
    """Return the table in Markdown with its notes below; best in bold."""
    align = ["---" if n < table.n_labels else "---:" for n in range(len(table.heads))]
    lines = [f"**{_escape(table.title)}**", ""] if table.title else []
    lines += [_line([_escape(head) for head in table.heads]), _line(align)]
    for row in table.rows:
        texts = [_escape(cell.text) for cell in row]
        bold = [
            f"**{t}**" if f.style == "best" and t else t for f, t in zip(row, texts, strict=True)
        ]
        lines.append(_line(bold))
    if table.notes:
        lines += ["", "  \n".join(_escape(note) for note in table.notes)]
    return "\n".join([*lines, ""])


def to_csv(table: Table) -> str:
    """Return heads and rows as CSV; no cell is a formula to a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_inert(head) for head in table.heads])
    for row in table.rows:
        writer.writerow([_inert(cell.text) for cell in row])
    return buffer.getvalue()


def _inert(text: str) -> str:
    text = printable(text)
    formula = text.lstrip().startswith(FORMULA) and not NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


def _escape(text: str) -> str:
    """Return Markdown that shows the text itself: no markup, no HTML, no further column."""
    text = re.sub(r"([\\`*|\[\]])", r"\\\1", printable(text))
    # Inside a word an underscore is only itself, and most names have one.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"
