"""Your own files: globs of .txt, .jsonl and .parquet, one document per file, line or row."""

import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lexp.data.corpus import SPLITS, Corpus, Document, Split, content_fingerprint, text_field
from lexp.system.errors import DataError

SUFFIXES = (".txt", ".jsonl", ".parquet")


class TextFiles(Corpus):
    """Documents from files.

    train, validation, test: a glob or a list of globs each (`**` crosses folders), or None.
    column: the field of a .jsonl line or .parquet row that holds the text.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        column: str = "text",
    ):
        self.globs: dict[Split, list[str]] = {}
        for split, value in zip(SPLITS, (train, validation, test), strict=True):
            self.globs[split] = [value] if isinstance(value, str) else list(value or [])
        self.column = column

    def files(self, split: Split) -> list[Path]:
        """Return the files of a split, sorted; DataError if a glob matches nothing usable."""
        files: set[Path] = set()
        for pattern in self.globs[split]:
            matches = {Path(m) for m in glob.glob(str(Path(pattern).expanduser()), recursive=True)}
            usable = {path for path in matches if path.is_file() and path.suffix in SUFFIXES}
            if not usable:
                seen = f"{len(matches)} paths, none" if matches else "nothing"
                raise DataError(
                    f"dataset.{split}={pattern} matches {seen} that ends in {', '.join(SUFFIXES)}"
                )
            files |= usable
        return sorted(files)

    def documents(self, split: Split) -> Iterator[Document]:
        """Yield the documents of a split; DataError names file and place of unreadable text."""
        for path in self.files(split):
            try:
                yield from self._read(path)
            except OSError as error:
                raise DataError(f"{path}: {error.strerror or error}") from None

    def _read(self, path: Path) -> Iterator[Document]:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty")
        if path.suffix == ".parquet":
            yield from _parquet(path, self.column)
        elif path.suffix == ".jsonl":
            yield from _jsonl(path, self.column)
        else:
            yield Document(path.name, decode(path.read_bytes(), path))

    def fingerprint(self) -> str:
        """Return a digest of all names and texts; DataError if a file is used in two splits."""
        split_of: dict[Path, Split] = {}
        for split in SPLITS:
            for path in self.files(split):
                first = split_of.setdefault(path.resolve(), split)
                if first != split:
                    raise DataError(f"{path} is in both dataset.{first} and dataset.{split}")
        return content_fingerprint((split, self.documents(split)) for split in SPLITS)


def decode(data: bytes, path: Path, first_line: int = 1) -> str:
    """Decode UTF-8; DataError names file, line and byte of the first error."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}: line {line}, byte {error.start}: not UTF-8 ({error.reason})"
        ) from None


def _jsonl(path: Path, column: str) -> Iterator[Document]:
    for number, row in jsonl_rows(path):
        where = f"{path}: line {number}"
        yield Document(f"{path.name}:{number}", text_field(row, column, where))


def jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a .jsonl file with line numbers from 1; DataError names a bad line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark is not JSON
            if not line.strip():
                continue
            try:
                yield number, json.loads(decode(line, path, number))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}: line {number}: not JSON ({error.msg})") from None
            except RecursionError:
                raise DataError(f"{path}: line {number}: JSON nested too deeply") from None


def _parquet(path: Path, column: str) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from None
    names = file.schema_arrow.names
    if column not in names:
        raise DataError(f"{path}: no column {column!r}; it has {', '.join(names)}")
    number = 0
    for batch in file.iter_batches(columns=[column]):
        for value in batch.column(0).to_pylist():
            number += 1
            text = text_field({column: value}, column, f"{path}: row {number}")
            yield Document(f"{path.name}:{number}", text)
