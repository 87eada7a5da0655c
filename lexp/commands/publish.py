"""Tables of a study, in the terminal and as Markdown beside their CSV file."""

from collections.abc import Sequence
from pathlib import Path

from lexp.display.table import Table, in_markdown, to_markdown
from lexp.display.terminal import table_console
from lexp.runs.locks import one_at_a_time
from lexp.system.files import clean, write_text
from lexp.system.output import say


def publish(study: Path, name: str, tables: Sequence[Table], notes: Sequence[str]) -> None:
    """Print tables and their notes; write them to study/NAME.md."""
    # A pipe or log file has no width: wide enough for any table is better than a cut one.
    rich = table_console()
    for table in tables:
        rich.table(table)
    rich.lines(*notes)
    paragraphs = [*map(to_markdown, tables), "  \n".join(map(in_markdown, notes))]
    with one_at_a_time(study):
        clean(study, f"{name}.*")
        write_text(study / f"{name}.md", "\n".join(paragraphs) + "\n")
    say(f"{study}/{name}.csv, {name}.md")
