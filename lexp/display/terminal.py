"""The console that tables are printed on."""

import sys

from rich.console import Console


def table_console(width: int = 200) -> Console:
    """Return a console on standard output; in a pipe or a file it is `width` columns wide."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=False)
