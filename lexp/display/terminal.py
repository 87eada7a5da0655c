"""The console that tables are printed on: it shows every character and acts on none."""

import sys
import textwrap
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.text import Text

from lexp.display.table import Table, in_parts, to_rich
from lexp.system.text import in_ascii, printable

# Wider than any table: what a table takes where nothing limits it.
ENDLESS = 1 << 16


class TableConsole(Console):
    """A console of rich on which texts are neither markup nor control sequences."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text as rich draws it, in one line: all strings that are printed pass here."""
        text = printable(text)
        # Before the line is wrapped: `...` is wider than its sign.
        return super().render_str(in_ascii(text) if self.options.ascii_only else text, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; in a pipe or a file without the blanks that fill a line."""
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write("\n".join(line.rstrip(" ") for line in captured.get().split("\n")))
        self.file.flush()  # or an error that is said later would stand before it in a log

    def lines(self, *texts: str) -> None:
        """Print each text as a line of its own."""
        for text in texts:
            self.print(text)

    def paragraphs(self, *texts: str) -> None:
        """Print each text wrapped to a terminal's width, later lines indented; else in one line."""
        for text in texts:
            shown = in_ascii(text) if self.options.ascii_only else text
            width = self.width if self.is_terminal else ENDLESS
            lines = textwrap.wrap(
                printable(shown), width, subsequent_indent="  ", break_on_hyphens=False
            )
            for line in lines:
                self.print(line, soft_wrap=True)

    def table(self, table: Table) -> None:
        """Print a table and its notes; no cell is cut, however many there are.

        In a pipe or a file a table is as wide as it has to be. In a terminal one that is too wide
        is printed in parts, each with the cells that name the rows.
        """
        if self.options.ascii_only:  # before it is laid out: `...` is wider than its sign
            table = _in_ascii(table)
        width = Measurement.get(self, self.options.update(width=ENDLESS), to_rich(table)).maximum
        if not self.is_terminal:
            self.width = max(self.width, width)
            self.print(to_rich(table))
        else:
            for part in in_parts(table, self.width):
                self.print(to_rich(part))
        self.lines(*table.notes)


def _in_ascii(table: Table) -> Table:
    return replace(
        table,
        title=in_ascii(table.title),
        heads=tuple(map(in_ascii, table.heads)),
        rows=tuple(
            tuple(replace(cell, text=in_ascii(cell.text)) for cell in row) for row in table.rows
        ),
    )


def table_console(width: int = 200) -> TableConsole:
    """Return a console on standard output; in a pipe or a file it is `width` columns wide."""
    shown = None if sys.stdout.isatty() else width
    return TableConsole(width=shown, highlight=False, markup=False, emoji=False)


def plain(text: object, style: str = "") -> Text:
    """Return a text as a cell of one of rich's own tables."""
    return Text(printable(str(text)), style=style)
