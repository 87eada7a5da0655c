"""Readers of .txt, .jsonl and .parquet files; each names the file and the place of bad content."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lexp.data.corpus import text_field
from lexp.system.errors import DataError, first_line
from lexp.system.reading import open_file, read_file, require_file

SUFFIXES = (".txt", ".jsonl", ".parquet")
# Decoded at once. A small file can hold many copies of one long text.
PARQUET_ROWS = 256


def read_texts(path: Path, column: str) -> Iterator[tuple[int | None, str]]:
    """Yield the texts of a file, each with its line or row from 1; a .txt file has one, of None.

    column: the field of a .jsonl line or .parquet row that holds the text. DataError names file
    and place of what cannot be read.
    """
    try:
        status = path.stat()
        require_file(status.st_mode, path)
        if status.st_size == 0:
            raise DataError(f"{path} is empty")
        if path.suffix.lower() == ".parquet":
            yield from _parquet(path, column)
        elif path.suffix.lower() == ".jsonl":
            for number, row in jsonl_rows(path):
                yield number, text_field(row, column, f"{path}: line {number}")
        else:
            # Editors on Windows begin a file with a byte order mark; it is no part of the text.
            text = decode(read_file(path), path).removeprefix("\ufeff")
            if not text:
                raise DataError(f"{path} is empty")
            yield None, text
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def decode(data: bytes, path: Path, first_line: int = 1) -> str:
    """Decode UTF-8; DataError names file, line and byte of the first error."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}: line {line}, byte {error.start}: not UTF-8 ({error.reason})"
        ) from None


def jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a .jsonl file with line numbers from 1; DataError names a bad line."""
    with open_file(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark is not JSON
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            try:
                row = json.loads(decode(line, path, number))
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: not JSON ({error.msg})") from None
            except ValueError:  # an integer of more digits than Python converts
                raise DataError(f"{where}: an integer has more digits than Python reads") from None
            except RecursionError:
                raise DataError(f"{where}: JSON nested too deeply") from None
            yield number, row


def _parquet(path: Path, column: str) -> Iterator[tuple[int, str]]:
    import pyarrow
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            if column not in schema.names:
                raise DataError(f"{path}: no column {column!r}; it has {', '.join(schema.names)}")
            if schema.names.count(column) > 1:
                raise DataError(f"{path}: {schema.names.count(column)} columns {column!r}")
            _refuse_other_types(schema.field(column).type, f"{path}: column {column!r}")
            for batch in file.iter_batches(PARQUET_ROWS, columns=[column]):
                values = batch.column(0)
                for index in range(len(values)):
                    number += 1
                    yield number, _parquet_text(values[index], column, f"{path}: row {number}")
    # A file that was cut or changed raises ValueError and others too, by the place of the damage.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        where = f"{path}: after row {number}" if number else f"{path}"
        raise DataError(f"{where}: not a readable parquet file ({first_line(error)})") from None


def _parquet_text(value: Any, column: str, where: str) -> str:
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:  # writers need not check that strings are UTF-8
        raise DataError(
            f"{where}: column {column!r}, byte {error.start}: not UTF-8 ({error.reason})"
        ) from None
    return text_field({column: text}, column, where)


def _refuse_other_types(kind: Any, where: str) -> None:
    from pyarrow import types

    value = kind.value_type if types.is_dictionary(kind) else kind
    is_text = types.is_string(value) or types.is_large_string(value)
    if not is_text and "string_view" not in str(value):
        raise DataError(f"{where} is {kind}, not text")
