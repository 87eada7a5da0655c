"""A table before it is drawn, and its drawings for terminal, Markdown and CSV."""

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
# What makes a spreadsheet take a cell for a formula; the last four are the full-width forms.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
RICH = {"": "", "best": "bold green", "failed": "red", "muted": "dim"}


@dataclass(frozen=True)
class TableCell:
    """One place of a table. style: one of STYLES."""

    text: str
    style: str = ""

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"style {self.style!r} is none of {STYLES}")


@dataclass(frozen=True)
class Table:
    """A table: rows as wide as heads, of which the left n_labels name the row; notes go below."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    n_labels: int = 1
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.heads):
                raise ValueError(f"{self.title}: {len(row)} fields under {len(self.heads)} heads")

    def begins_group(self, n: int) -> bool:
        """Whether row n is the first of another model than the row above it.

        Never where every row is of another model: what separates them all separates none.
        """
        names = [row[0].text for row in self.rows] if self.n_labels > 1 else []
        if n == 0 or all(a != b for a, b in itertools.pairwise(names)):
            return False
        return names[n] != names[n - 1]


def to_rich(sheet: Table) -> RichTable:
    """The table for a terminal, without its notes; best in bold green, failures in red."""
    table = RichTable(title=Text(printable(sheet.title), style="italic"))
    for n, head in enumerate(sheet.heads):
        right = n >= sheet.n_labels
        table.add_column(Text(printable(head)), justify="right" if right else "left")
    for n, row in enumerate(sheet.rows):
        if sheet.begins_group(n):
            table.add_section()
        table.add_row(*(Text(printable(field.text), style=RICH[field.style]) for field in row))
    return table


def to_markdown(sheet: Table) -> str:
    """The table in Markdown with its notes below; best in bold."""
    align = ["---" if n < sheet.n_labels else "---:" for n in range(len(sheet.heads))]
    lines = [f"**{_escape(sheet.title)}**", ""] if sheet.title else []
    lines += [_line([_escape(head) for head in sheet.heads]), _line(align)]
    for row in sheet.rows:
        texts = [_escape(field.text) for field in row]
        bold = [
            f"**{t}**" if f.style == "best" and t else t for f, t in zip(row, texts, strict=True)
        ]
        lines.append(_line(bold))
    if sheet.notes:
        lines += ["", "  \n".join(_escape(note) for note in sheet.notes)]
    return "\n".join([*lines, ""])


def to_csv(sheet: Table) -> str:
    """Heads and rows as CSV, without title and notes; no cell that a spreadsheet would run."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_inert(head) for head in sheet.heads])
    for row in sheet.rows:
        writer.writerow([_inert(field.text) for field in row])
    return buffer.getvalue()


def _inert(text: str) -> str:
    text = printable(text)
    formula = text.lstrip().startswith(FORMULA) and not NUMBER.fullmatch(text)
    return f"'{text}" if formula else text


def _escape(text: str) -> str:
    """Markdown that shows the text itself: no markup, no HTML, no further column."""
    text = re.sub(r"([\\`*|\[\]])", r"\\\1", printable(text))
    # Inside a word an underscore is only itself, and most names have one.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"
