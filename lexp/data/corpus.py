"""Corpora: named documents in three splits, and a fingerprint of their content."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from lexp.data.dataset import Dataset
from lexp.data.unchanged import FileFindings
from lexp.system.errors import DataError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Document(NamedTuple):
    """A text, and its name in errors and tables (file, or file:line)."""

    name: str
    text: str


class Corpus(Dataset):
    """Documents by split; a split that was not configured is empty.

    max_tokens: a split ends after the document with which it has so many; None: with the last.
    findings: where digests of unchanged files are kept from one start to the next.
    """

    max_tokens: int | None = None
    findings: FileFindings = FileFindings()

    @property
    def commit(self) -> str | None:
        """Return the version of a remote dataset; None for local texts."""
        return None

    def documents(self, split: Split) -> Iterator[Document]:
        """Yield the documents of a split in a fixed order; DataError names an unreadable place."""
        raise NotImplementedError

    def changed_since(self, moment: float) -> bool:
        """Return True if local files may have changed since a time, in seconds since 1970."""
        return False

    def fingerprint(self) -> str:
        """Return a hex digest that changes whenever any document or split changes.

        It may be computed once for each object: an object is one reading of the texts.
        """
        raise NotImplementedError

    def n_bytes(self) -> int | None:
        """Return about how many bytes of text there are; None if only reading them tells."""
        return None

    def notes(self) -> list[str]:
        """Say what is not read of what was asked for, and how it was split, a line each."""
        return []


def text_field(row: Any, column: str, where: str) -> str:
    """Return the text of a row; DataError names the place if it has no text that can be encoded."""
    if not isinstance(row, dict) or column not in row:
        has = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise DataError(f"{where}: no column {column!r}; it has {has}")
    text = row[column]
    if not isinstance(text, str):
        raise DataError(f"{where}: column {column!r} is {type(text).__name__}, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, as some web dumps have
        raise DataError(f"{where}: character {error.start}: {error.reason}") from None
    return text


def content_fingerprint(splits: Iterable[tuple[Split, Iterable[Document]]]) -> str:
    """Return a hex digest over split names, document names and texts."""
    corpus = hashlib.sha256()
    for split, documents in splits:
        for document in documents:
            text = hashlib.sha256(document.text.encode()).hexdigest()
            line = f"{split}\0{document.name}\0{text}\n"
            corpus.update(line.encode(errors="surrogateescape"))  # file names need not be UTF-8
    return corpus.hexdigest()
