"""What a corpus is: named documents in three splits, and a fingerprint of their content."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Document(NamedTuple):
    """A text and the name errors and tables know it by (file, or file:line)."""

    name: str
    text: str


class Corpus:
    """Documents by split; a split that was not given is empty."""

    def documents(self, split: Split) -> Iterator[Document]:
        """The documents of a split, in a fixed order; DataError names what cannot be read."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Hex digest that changes whenever any document or split changes."""
        raise NotImplementedError


def content_fingerprint(splits: Iterable[tuple[Split, Iterable[Document]]]) -> str:
    """Hex digest over split names, document names and texts."""
    whole = hashlib.sha256()
    for split, documents in splits:
        for document in documents:
            text = hashlib.sha256(document.text.encode()).hexdigest()
            whole.update(f"{split}\0{document.name}\0{text}\n".encode())
    return whole.hexdigest()
