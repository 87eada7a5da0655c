"""results.csv: every cell of a study, rebuilt from the cells' own files."""

import csv
import io
import math
from pathlib import Path
from typing import Any

from lexp.evaluate import COLUMNS, LAST, STEP, read_cell
from lexp.runs.locks import one_at_a_time
from lexp.system.files import write_text


def write_results(study: Path) -> None:
    """Write <study>/results.csv with all cells found in the study's runs, failures included."""
    with one_at_a_time(study):  # or a table gathered before another job's last cell could win
        _write(study)


def _write(study: Path) -> None:
    cells = [known[0] for path in sorted(study.glob("*/eval/*.json")) if (known := read_cell(path))]
    cells.sort(
        key=lambda c: (c.run, c.attention, c.extension, c.protocol, c.documents, c.length, c.step)
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [*COLUMNS, *[STEP] * any(cell.step != LAST for cell in cells)]
    writer.writerow(columns)
    for cell in cells:
        writer.writerow([_text(getattr(cell, column)) for column in columns])
    write_text(study / "results.csv", buffer.getvalue())


def _text(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value
