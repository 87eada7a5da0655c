"""Tokenised documents on disk: written once per (corpus, tokenizer), then memory-mapped.

<cache>/<corpus>-<tokenizer>/train.tokens   ids, little-endian, uint8/16/32
                             train.bytes    bytes of text per token, uint16 (not for bytes)
                             train.json     documents: name, tokens, bytes
                             manifest.json  SHA-256 of each file; checked whenever it is opened
"""

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lexp.data.corpus import SPLITS, Corpus, Document, Split
from lexp.data.tokenizer import Tokenizer
from lexp.system.errors import DataError
from lexp.system.files import (
    make_folder,
    new_folder,
    open_new,
    publish,
    remove_file,
    remove_folder,
    sha256_own,
    storage,
    write_json,
)
from lexp.system.reading import own_file_exists, read_own

# Documents are handed to the tokenizer in batches of about this many characters.
BATCH_CHARACTERS = 1 << 22
MANIFEST = "manifest.json"
FORMAT = 2  # 1 had no digests
# A process that tokenises writes continuously: after a day without a write it was killed.
LEFT_AFTER_S = 86400


@dataclass(frozen=True)
class Tokens:
    """The documents of one split: a memory-mapped array of ids, and where each document begins.

    ids [n]; starts [documents + 1]; bytes_per_token [n], or None where every token is one byte.
    """

    names: tuple[str, ...]
    ids: np.ndarray
    starts: np.ndarray
    bytes_per_token: np.ndarray | None

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each document."""
        return np.diff(self.starts)

    def window(self, document: int, first: int, n_tokens: int) -> np.ndarray:
        """Return the int64 ids of `n_tokens` tokens from token `first` of a document."""
        start = int(self.starts[document]) + first
        return self.ids[start : start + n_tokens].astype(np.int64)

    def n_bytes(self, document: int, first: int, n_tokens: int) -> int:
        """Return the bytes of text of the same tokens."""
        start = int(self.starts[document]) + first
        if self.bytes_per_token is None:
            return n_tokens
        return int(self.bytes_per_token[start : start + n_tokens].sum(dtype=np.int64))


@dataclass(frozen=True)
class Store:
    """A tokenised corpus, with the digests that identify it."""

    splits: dict[Split, Tokens]
    fingerprint: str
    tokenizer: Tokenizer


def open_store(corpus: Corpus, tokenizer: Tokenizer, cache: Path) -> Store:
    """Memory-map the tokenised corpus; tokenise it at its first use."""
    fingerprint = corpus.fingerprint()
    folder = cache / f"{fingerprint[:16]}-{tokenizer.digest[:16]}-{FORMAT}"
    if not folder.is_dir():
        _write(corpus, tokenizer, folder)
    _verify(folder)
    splits = {split: _read(folder, split) for split in SPLITS}
    return Store(splits, fingerprint, tokenizer)


def _write(corpus: Corpus, tokenizer: Tokenizer, folder: Path) -> None:
    """Write next to the target and rename, so that runs that start together do not collide."""
    make_folder(folder.parent)
    with storage(folder):
        _remove_leftovers(folder.parent)
    with new_folder(folder) as temporary:
        for split in SPLITS:
            _write_split(corpus.documents(split), tokenizer, temporary, split)
        with storage(folder):
            names = sorted(path.name for path in temporary.iterdir())
            write_json(temporary / MANIFEST, {name: sha256_own(temporary / name) for name in names})
            try:
                publish(temporary, folder)
            except OSError:
                if not folder.is_dir():  # otherwise another run has written the same content
                    raise


def _remove_leftovers(cache: Path) -> None:
    """Delete what processes left that were killed while tokenising or training a vocabulary."""
    for path in cache.glob(f".*-{FORMAT}.*"):
        # By age, not by a lock: on cluster file systems other machines may not see locks.
        with contextlib.suppress(OSError):
            is_folder = stat.S_ISDIR(path.lstat().st_mode)
            files = [path, *(path.iterdir() if is_folder else ())]
            written = max(file.lstat().st_mtime for file in files)
            if time.time() - written > LEFT_AFTER_S:
                (remove_folder if is_folder else remove_file)(path)


def _write_split(
    documents: Iterator[Document], tokenizer: Tokenizer, folder: Path, split: Split
) -> None:
    dtype = id_dtype(tokenizer.vocab_size)
    rows: list[dict[str, str | int]] = []
    names: set[str] = set()
    all_single = True
    with storage(folder), ExitStack() as files:
        ids_file = files.enter_context(open_new(folder / f"{split}.tokens"))
        bytes_file = files.enter_context(open_new(folder / f"{split}.bytes"))
        for batch in _batches(documents):
            encoded = tokenizer.encode([document.text for document in batch])
            for document, (ids, n_bytes) in zip(batch, encoded, strict=True):
                if document.name in names:  # tokens of several results are matched by name
                    raise DataError(f"two documents of dataset.{split} are named {document.name!r}")
                names.add(document.name)
                if len(ids) and int(ids.max()) >= tokenizer.vocab_size:
                    raise DataError(
                        f"{document.name}: token id {ids.max()} in a vocabulary of "
                        f"{tokenizer.vocab_size}"
                    )
                ids_file.write(ids.astype(dtype).tobytes())
                bytes_file.write(n_bytes.astype("<u2").tobytes())
                all_single = all_single and bool((n_bytes == 1).all())
                total = int(n_bytes.sum(dtype=np.int64))
                rows.append({"name": document.name, "tokens": len(ids), "bytes": total})
        for file in (ids_file, bytes_file):
            file.flush()
            os.fsync(file.fileno())
    if all_single:
        remove_file(folder / f"{split}.bytes")
    write_json(folder / f"{split}.json", {"dtype": dtype, "documents": rows})


def _verify(folder: Path) -> None:
    """Raise DataError if a file differs from what was written."""
    try:
        digests = json.loads(read_own(folder / MANIFEST))
        names = {path.name for path in folder.iterdir()} - {MANIFEST}
        wrong = sorted(names ^ set(digests)) or [
            name for name in sorted(names) if sha256_own(folder / name) != digests[name]
        ]
    except (OSError, ValueError, RecursionError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST} is damaged ({error}); delete {folder}") from None
    if wrong:
        raise DataError(f"{folder / wrong[0]} is damaged (digest differs); delete {folder}")


def _read(folder: Path, split: Split) -> Tokens:
    try:
        index = json.loads(read_own(folder / f"{split}.json"))
        rows = index["documents"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataError(f"{folder / split}.json is damaged ({error}); delete {folder}") from None
    starts = np.concatenate([[0], np.cumsum([row["tokens"] for row in rows], dtype=np.int64)])
    path = folder / f"{split}.bytes"
    return Tokens(
        names=tuple(row["name"] for row in rows),
        ids=_map(folder / f"{split}.tokens", index["dtype"], int(starts[-1])),
        starts=starts.astype(np.int64),
        bytes_per_token=_map(path, "<u2", int(starts[-1])) if own_file_exists(path) else None,
    )


def _map(path: Path, dtype: str, n: int) -> np.ndarray:
    expected = n * np.dtype(dtype).itemsize
    actual = path.stat().st_size
    if actual != expected:
        raise DataError(f"{path} has {actual} bytes, not {expected}; delete {path.parent}")
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if n else np.zeros(0, dtype=dtype)


def id_dtype(vocab_size: int) -> str:
    """Return the smallest little-endian type that holds every id."""
    return "<u1" if vocab_size <= 1 << 8 else "<u2" if vocab_size <= 1 << 16 else "<u4"


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
