"""Your own files: globs of .txt, .jsonl and .parquet, one document per file, line or row."""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lexp.data.corpus import SPLITS, Corpus, Document, Split, content_fingerprint
from lexp.data.globs import document_names, left_out, match
from lexp.data.progress import TextProgress
from lexp.data.readers import read_texts
from lexp.data.split import assign, check_shares, piece
from lexp.system.errors import ConfigError, DataError

SHARES = (0.8, 0.1, 0.1)
# Another number wherever the same files would be read or split otherwise.
READ_AS = 1


class TextFiles(Corpus):
    """Documents from files, in splits of their own or in one folder that is split here.

    train, validation, test: a glob, a folder, or a list of them each (`**` crosses folders), or
    None. path: likewise, of documents that are split by a hash of their text. split: shares of
    train, validation and test in path. column: the field of a .jsonl line or .parquet row that
    holds the text.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        path: str | list[str] | None = None,
        split: Sequence[float] = SHARES,
        column: str = "text",
    ):
        given = zip(("path", *SPLITS), (path, train, validation, test), strict=True)
        self.globs = {
            key: [value] if isinstance(value, str) else list(value or []) for key, value in given
        }
        self.shares = check_shares(split)
        own_splits = [f"dataset.{name}" for name in SPLITS if self.globs[name]]
        if self.globs["path"] and own_splits:
            raise ConfigError(f"dataset.path and {', '.join(own_splits)} (give one or the other)")
        if not self.globs["path"] and self.shares != SHARES:
            raise ConfigError(f"dataset.split={list(self.shares)} (goes with dataset.path)")
        self.column = column

    def files(self, key: str) -> list[Path]:
        """Return the files of a split, or of `path`, sorted, each once however many names it has.

        DataError if a glob matches nothing usable.
        """
        return match(self.globs[key], f"dataset.{key}").files

    def notes(self) -> list[str]:
        """Say which files have another type than lexp reads, and how many documents a split got."""
        lines = [line for key in self.globs for line in left_out(self.globs[key], f"dataset.{key}")]
        return lines + ([self._how_split()] if self.globs["path"] else [])

    def _how_split(self) -> str:
        where = f"dataset.path={','.join(self.globs['path'])}"
        percents = " / ".join(f"{100 * share:g}" for share in self.shares)
        n, counts = self._found["n_documents"], self._found["of_splits"]
        n_documents = f"{n} document{'s' * (n > 1)}"
        if counts is None:
            return f"{where}: {n_documents}, cut into {percents} % of the text"
        of_splits = ", ".join(
            f"{count} {split}" for count, split in zip(counts, SPLITS, strict=True)
        )
        return f"{where}: {n_documents}, {of_splits} ({percents} %, by a hash of each text)"

    def n_bytes(self) -> int | None:
        """Return the size of all files; None if some are compressed."""
        files = [path for key in self.globs for path in self.files(key)]
        if any(path.suffix.lower() == ".parquet" for path in files):
            return None
        return sum(path.stat().st_size for path in files)

    def documents(self, split: Split) -> Iterator[Document]:
        """Yield the documents of a split; DataError names file and place of unreadable text."""
        if not self.globs["path"]:
            yield from self._read(split)
            return
        assigned, at = self._assigned, SPLITS.index(split)
        for number, document in enumerate(self._read("path")):
            if assigned is None:
                text = piece(document.text, split, self.shares, document.name)
                yield Document(document.name, text)
            elif assigned[number] == at:
                yield document

    def _read(self, key: str) -> Iterator[Document]:
        files = self.files(key)
        for path, name in zip(files, document_names(files), strict=True):
            for number, text in read_texts(path, self.column):
                yield Document(name if number is None else f"{name}:{number}", text)

    @cached_property
    def _read_through(self) -> tuple[np.ndarray, str]:
        """Starts of the SHA-256 of the texts of `path`, uint64 [documents]; a digest of all."""
        starts, corpus = array("Q"), hashlib.sha256(repr(self.shares).encode())
        for name, text in TextProgress("reading", self.n_bytes()).follow(self._read("path")):
            digest = hashlib.sha256(text.encode()).digest()
            starts.append(int.from_bytes(digest[:8], "big"))
            corpus.update(name.encode(errors="surrogateescape") + b"\0" + digest)
        return np.array(starts), corpus.hexdigest()

    @cached_property
    def _assigned(self) -> np.ndarray | None:
        return assign(self._read_through[0], self.shares)

    def changed_since(self, moment: float) -> bool:
        """Return True if a file was written, renamed or replaced after a time."""
        states = (path.stat() for key in self.globs for path in self.files(key))
        return any(max(state.st_mtime, state.st_ctime) > moment for state in states)

    def fingerprint(self) -> str:
        """Return a digest of all names and texts; DataError if a file is used in two splits."""
        return self._fingerprint

    @property
    def _fingerprint(self) -> str:
        return str(self._found["fingerprint"])

    @cached_property
    def _found(self) -> dict[str, Any]:
        """What all texts have to be read for: fingerprint; with `path`, how they are split.

        n_documents; of_splits: documents of each split, None where too few are cut in three.
        """
        files = {key: self.files(key) for key in self.globs}
        names = {key: document_names(of_key) for key, of_key in files.items()}
        asked = [READ_AS, names, self.column, self.shares]
        all_files = [path for of_key in files.values() for path in of_key]
        return self.findings.about(asked, all_files, self._find)

    def _find(self) -> dict[str, Any]:
        if not self.globs["path"]:
            return {"fingerprint": self._content_fingerprint()}
        hashes, fingerprint = self._read_through
        counts = None
        if self._assigned is not None:
            counts = np.bincount(self._assigned, minlength=len(SPLITS)).tolist()
        return {"fingerprint": fingerprint, "n_documents": len(hashes), "of_splits": counts}

    def _content_fingerprint(self) -> str:
        split_of: dict[Path, Split] = {}
        for split in SPLITS:
            for path in self.files(split):
                first = split_of.setdefault(path.resolve(), split)
                if first != split:
                    raise DataError(f"{path} is in both dataset.{first} and dataset.{split}")
        progress = TextProgress("reading", self.n_bytes())
        return content_fingerprint(
            (split, progress.follow(self.documents(split))) for split in SPLITS
        )
