"""Results as CSV files."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lexp.system.files import write_text
from lexp.system.output import csv_cell


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], nan: str = ""
) -> None:
    """Write a line of column names and a line for each row, whole or not at all.

    A text in a row may be somebody else's: no spreadsheet takes it for a formula.

    A column that a row lacks is left empty; `nan` stands for numbers that are not numbers.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_text(row.get(column, ""), nan) for column in columns])
    write_text(path, buffer.getvalue())


def _text(value: Any, nan: str) -> Any:
    return nan if isinstance(value, float) and math.isnan(value) else csv_cell(value)
