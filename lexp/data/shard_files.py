"""The files of a store as they are written: tokens in shards, and the index as arrays.

What is known when a shard is full is kept in progress.json, with digests of all files so far. A
process that is killed loses the shard that it was at.
"""

import contextlib
import hashlib
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from lexp.data.corpus import SPLITS, Split
from lexp.data.tokenise import EncodedDocuments
from lexp.data.tokens import MappedFile, Names, encode_name
from lexp.data.unchanged import State, state_of
from lexp.system.errors import DataError, LexpError
from lexp.system.files import open_new, open_to_append, read_sealed, remove_file, write_sealed
from lexp.system.reading import open_own

# A shard ends after the document with which it has so many tokens: 0.25 GB of ids, and half a
# thousand open files for 60 billion tokens.
SHARD_TOKENS = 1 << 27
PROGRESS = "progress.json"
# Arrays with a value for each document, and the names end to end.
INDEX = ("starts", "hashes", "names", "name_ends")


@dataclass
class SplitRecord:
    """What is known of the tokens of a split.

    shards: tokens of each, and whether it has bytes per token, which are all 1 otherwise.
    first_nul: name of the first of n_nul documents that are NUL characters to a tenth or more.
    n_with_end: documents that hold the token that ends a text.
    """

    n_documents: int = 0
    n_tokens: int = 0
    n_bytes: int = 0
    n_lost: int = 0
    n_vanished: int = 0
    n_nul: int = 0
    first_nul: str = ""
    n_with_end: int = 0
    shards: list[tuple[int, bool]] = field(default_factory=list)
    is_whole: bool = False


@dataclass
class StoreRecord:
    """What is known of a store that is being written: of its splits, and of finished files.

    digests, states: by name. index: size and digest of the files of an index so far.
    """

    splits: dict[Split, SplitRecord]
    digests: dict[str, str] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    index: dict[str, tuple[int, str]] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> "StoreRecord":
        """Return the record of a store in which no document is done."""
        return cls({split: SplitRecord() for split in SPLITS})

    @property
    def n_documents(self) -> int:
        """Return how many documents are done."""
        return sum(split.n_documents for split in self.splits.values())


def shard_name(split: Split, number: int, kind: str) -> str:
    """Return the name of a file of a shard. kind: `tokens`, or `bytes` for bytes per token."""
    return f"{split}-{number:05}.{kind}"


def read_record(folder: Path) -> StoreRecord | None:
    """Return how far the writer of a folder came; None if no shard is whole, or all is damaged."""
    try:
        value = read_sealed(folder / PROGRESS)
        record = StoreRecord(
            {split: SplitRecord(**value["splits"][split]) for split in SPLITS},
            value["digests"],
            {name: tuple(state) for name, state in value["states"].items()},
            {name: tuple(pair) for name, pair in value["index"].items()},
        )
        for split in record.splits.values():
            split.shards = [(n, has_bytes) for n, has_bytes in split.shards]
        sizes = {name: state_of(folder / name) for name in record.digests}
        is_same = all(sizes[name][1] == record.states[name][1] for name in record.digests)
        return record if is_same and _is_whole_index(folder, record) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, LexpError):
        return None


def _is_whole_index(folder: Path, record: StoreRecord) -> bool:
    """Return whether the files of the index begin with what the record says."""
    for name, (size, expected) in record.index.items():
        with open_own(folder / name) as file:
            if hashlib.sha256(file.read(size)).hexdigest() != expected:
                return False
    return True


class _GrowingFile:
    """A file of an index, with its digest; it goes on from the size that a record says."""

    def __init__(self, path: Path, size: int):
        self._file = open_to_append(path)
        self._file.truncate(size)
        self._file.seek(0)
        self._sha256 = hashlib.file_digest(self._file, hashlib.sha256)  # type: ignore[arg-type]
        self.size = size

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.size += len(data)

    def sync(self) -> str:
        """Return the digest of what is now on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._sha256.hexdigest()

    def close(self) -> None:
        self._file.close()


class _NewFile:
    """A file of a shard, with its digest."""

    def __init__(self, path: Path):
        remove_file(path)  # what a killed process was at
        self.path, self._file, self._sha256 = path, open_new(path), hashlib.sha256()

    def write(self, values: np.ndarray) -> None:
        data = values.tobytes()
        self._file.write(data)
        self._sha256.update(data)

    def finish(self, record: StoreRecord) -> None:
        """Have it on disk, and in the record."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        record.digests[self.path.name] = self._sha256.hexdigest()
        record.states[self.path.name] = state_of(self.path)

    def close(self) -> None:
        self._file.close()


class SplitWriter:
    """Writes the tokens of a split from where its record ends; a context manager.

    Attributes: record, of the whole store; of_split, of this split.
    """

    def __init__(self, folder: Path, split: Split, record: StoreRecord):
        self._folder, self._split = folder, split
        self.record, self.of_split = record, record.splits[split]
        self._files = contextlib.ExitStack()
        self._index: dict[str, _GrowingFile] = {}
        self._tokens: _NewFile | None = None
        self._bytes: _NewFile | None = None
        self._in_shard = 0

    def __enter__(self) -> "SplitWriter":
        for kind in INDEX:
            name = f"{self._split}.{kind}"
            size, _ = self.record.index.get(name, (0, ""))
            self._index[kind] = _GrowingFile(self._folder / name, size)
            self._files.callback(self._index[kind].close)
        if not self._index["starts"].size:
            self._index["starts"].write(np.zeros(1, dtype="<i8").tobytes())
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def add(self, batch: EncodedDocuments) -> None:
        """Write a batch of documents; they are all in one shard."""
        self._add_tokens(batch)
        known, index = self.of_split, self._index
        stops = known.n_tokens + np.cumsum(batch.lengths)
        index["starts"].write(stops.astype("<i8").tobytes())
        index["hashes"].write(batch.hashes.tobytes())
        names = [encode_name(name) for name in batch.names]
        ends = index["names"].size + np.cumsum([len(name) for name in names])
        index["name_ends"].write(ends.astype("<i8").tobytes())
        index["names"].write(b"".join(names))
        known.n_documents += len(names)
        known.n_tokens += len(batch.ids)
        known.n_bytes += int(batch.text_bytes.sum())
        known.n_lost += int(batch.lost.sum())
        known.n_with_end += int(batch.has_end.sum())
        known.n_vanished += int(((batch.lengths == 0) & (batch.text_bytes > 0)).sum())
        if batch.has_nul.any():
            known.first_nul = known.first_nul or batch.names[int(batch.has_nul.argmax())]
            known.n_nul += int(batch.has_nul.sum())
        if self._in_shard >= SHARD_TOKENS:
            self._end_shard()
            self.keep()

    def finish(self) -> None:
        """Complete the files of the split. DataError if two documents have one name."""
        if self._in_shard:
            self._end_shard()
        self.of_split.is_whole = True
        for kind in INDEX:
            name = f"{self._split}.{kind}"
            self.record.digests[name] = self._index[kind].sync()
            self.record.states[name] = state_of(self._folder / name)
        self._refuse_equal_names()

    def keep(self) -> None:
        """Write how far the store is, for a process that goes on with it."""
        for kind, file in self._index.items():
            self.record.index[f"{self._split}.{kind}"] = file.size, file.sync()
        write_sealed(self._folder / PROGRESS, asdict(self.record))

    def _add_tokens(self, batch: EncodedDocuments) -> None:
        number = len(self.of_split.shards)
        if self._tokens is None:
            self._tokens = self._new_file(number, "tokens")
        if batch.n_bytes is not None and self._bytes is None:
            self._bytes = self._new_file(number, "bytes")
            for first in range(0, self._in_shard, 1 << 20):
                self._bytes.write(np.ones(min(1 << 20, self._in_shard - first), dtype="<u2"))
        self._tokens.write(batch.ids)
        if self._bytes is not None:
            ones: np.ndarray = np.ones(len(batch.ids), dtype="<u2")
            self._bytes.write(ones if batch.n_bytes is None else batch.n_bytes)
        self._in_shard += len(batch.ids)

    def _new_file(self, number: int, kind: str) -> _NewFile:
        file = _NewFile(self._folder / shard_name(self._split, number, kind))
        self._files.callback(file.close)
        return file

    def _end_shard(self) -> None:
        for file in filter(None, (self._tokens, self._bytes)):
            file.finish(self.record)
        self.of_split.shards.append((self._in_shard, self._bytes is not None))
        self._tokens, self._bytes, self._in_shard = None, None, 0

    def _refuse_equal_names(self) -> None:
        """Raise DataError for a name that two documents have: results are matched by names."""
        names, n = self._names(), self.of_split.n_documents
        hashes: np.ndarray = np.fromiter(map(hash, names), dtype=np.int64, count=n)
        order = np.argsort(hashes, kind="stable")
        equal = np.flatnonzero(np.diff(hashes[order]) == 0)
        for one, other in zip(order[equal].tolist(), order[equal + 1].tolist(), strict=True):
            if names[one] == names[other]:
                raise DataError(f"two documents of dataset.{self._split} are named {names[one]!r}")

    def _names(self) -> Names:
        known, path = self.of_split, self._folder / self._split
        n_bytes = self._index["names"].size
        return Names(
            MappedFile(path.with_suffix(".names"), "u1", n_bytes),
            MappedFile(path.with_suffix(".name_ends"), "<i8", known.n_documents),
        )
