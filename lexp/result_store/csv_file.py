"""Results as CSV files."""

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lexp.system.files import open_to_append, write_text
from lexp.system.output import csv_cell


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], nan: str = ""
) -> None:
    """Write a line of column names and a line for each row, whole or not at all.

    A text in a row may be somebody else's: no spreadsheet takes it for a formula.

    A column that a row lacks is left empty; `nan` stands for numbers that are not numbers.
    """
    lines = (_line([_text(row.get(column, ""), nan) for column in columns]) for row in rows)
    write_text(path, "".join([_line(columns), *lines]))


def append_csv(
    path: Path, headers: Sequence[Sequence[str]], rows: Sequence[Mapping[str, Any]]
) -> bool:
    """Append rows to a file of `write_csv`; return False if it has to be written anew.

    That is: it is missing, a killed process left half a line, or its columns are none of `headers`.
    """
    with open_to_append(path) as file:
        file.seek(0)
        first = file.readline().decode(errors="replace")
        columns = next((columns for columns in headers if _line(columns) == first), None)
        file.seek(-1 if first else 0, os.SEEK_END)
        if columns is None or file.read() != b"\n":
            return False
        lines = [_line([_text(row.get(column, ""), "") for column in columns]) for row in rows]
        file.write("".join(lines).encode())
        file.flush()
    return True


def _line(values: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def _text(value: Any, nan: str) -> Any:
    return nan if isinstance(value, float) and math.isnan(value) else csv_cell(value)
