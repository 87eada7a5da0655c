"""Tokenised documents on disk: written once per (corpus, tokenizer), then memory-mapped.

<cache>/<corpus>-<tokenizer>/train.tokens   ids, little-endian, uint8/16/32
                             train.bytes    bytes of text per token, uint16 (not for bytes)
                             train.hashes   start of each document's SHA-256, uint64; empty: 0
                             train.json     documents: name, tokens, bytes; what was lost
                             manifest.json  SHA-256 of each file; checked whenever it is opened
"""

import contextlib
import hashlib
import json
import os
import stat
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lexp.data.corpus import SPLITS, Corpus, Document, Split
from lexp.data.progress import TextProgress
from lexp.data.tokenizer import Encoded, Tokenizer
from lexp.system.errors import DataError, OutOfMemory, first_line, refuse_shortage
from lexp.system.files import (
    make_folder,
    new_folder,
    open_new,
    publish,
    remove_file,
    remove_folder,
    sha256_own,
    storage,
    write_bytes,
    write_json,
)
from lexp.system.reading import own_file_exists, read_own

# Documents are handed to the tokenizer in batches of about this many characters.
BATCH_CHARACTERS = 1 << 22
MANIFEST = "manifest.json"
FORMAT = 3  # 1 had no digests, 2 no hashes of documents
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
class SplitFacts:
    """What is known of the text of a split that its tokens do not say.

    n_bytes, n_lost: of the text, and of it what the tokens cannot give back. n_vanished: documents
    with a text and without a token. n_nul, first_nul: documents that are NUL characters to a tenth
    or more, and the name of the first. hashes: of the texts, uint64 [documents]; 0: empty text.
    """

    n_bytes: int
    n_lost: int
    n_vanished: int
    n_nul: int
    first_nul: str
    hashes: np.ndarray

    @property
    def lost_share(self) -> float:
        """Return the share of the text's bytes that the tokens cannot give back."""
        return self.n_lost / self.n_bytes if self.n_bytes else 0.0


@dataclass(frozen=True)
class Store:
    """A tokenised corpus, with the digests that identify it, and its folder."""

    splits: dict[Split, Tokens]
    facts: dict[Split, SplitFacts]
    fingerprint: str
    tokenizer: Tokenizer
    folder: Path


def open_store(corpus: Corpus, tokenizer: Tokenizer, cache: Path) -> Store:
    """Memory-map the tokenised corpus; tokenise it at its first use."""
    fingerprint = corpus.fingerprint()
    folder = store_folder(cache, fingerprint, tokenizer)
    if not folder.is_dir():
        _write(corpus, tokenizer, folder)
    _verify(folder)
    return map_store(folder, fingerprint, tokenizer)


@contextlib.contextmanager
def enough_memory(dataset: str) -> Iterator[None]:
    """Raise a MemoryError of reading and tokenising as OutOfMemory. dataset: its name."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(
            f"not enough memory to tokenise {dataset} ({first_line(error)}); each document is read "
            "and tokenised whole, so split long ones"
        ) from None


def store_folder(cache: Path, fingerprint: str, tokenizer: Tokenizer) -> Path:
    """Return where the tokens of a corpus are kept."""
    return cache / f"{fingerprint[:16]}-{tokenizer.digest[:16]}-{FORMAT}"


def map_store(folder: Path, fingerprint: str, tokenizer: Tokenizer) -> Store:
    """Memory-map a store that this command has opened before: it is not verified again."""
    read = {split: _read(folder, split) for split in SPLITS}
    splits = {split: tokens for split, (tokens, _) in read.items()}
    facts = {split: of_split for split, (_, of_split) in read.items()}
    return Store(splits, facts, fingerprint, tokenizer, folder)


def stored_hashes(folder: Path, split: Split) -> np.ndarray | None:
    """Return the hashes of a split's documents from a store; None if it is absent or damaged."""
    path = folder / f"{split}.hashes"
    try:
        data = read_own(path)
        digests = json.loads(read_own(folder / MANIFEST))
        if hashlib.sha256(data).hexdigest() != digests[path.name]:
            return None
        return np.frombuffer(data, dtype="<u8")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write(corpus: Corpus, tokenizer: Tokenizer, folder: Path) -> None:
    """Write next to the target and rename, so that runs that start together do not collide."""
    make_folder(folder.parent)
    with storage(folder):
        _remove_leftovers(folder.parent)
    progress = TextProgress("tokenising", corpus.n_bytes())
    with new_folder(folder) as temporary:
        for split in SPLITS:
            documents = progress.follow(corpus.documents(split))
            _write_split(documents, tokenizer, temporary, split)
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
    hashes = array("Q")
    n_lost, all_single = 0, True
    with_nul: list[str] = []
    with storage(folder), ExitStack() as files:
        ids_file = files.enter_context(open_new(folder / f"{split}.tokens"))
        bytes_file = files.enter_context(open_new(folder / f"{split}.bytes"))
        for batch in _batches(documents):
            for document, (ids, n_bytes, n_lost_here) in _encode(batch, tokenizer):
                if document.name in names:  # tokens of several results are matched by name
                    raise DataError(f"two documents of dataset.{split} are named {document.name!r}")
                names.add(document.name)
                ids_file.write(ids.astype(dtype).tobytes())
                bytes_file.write(n_bytes.astype("<u2").tobytes())
                all_single = all_single and bool((n_bytes == 1).all())
                total = len(document.text.encode())
                rows.append({"name": document.name, "tokens": len(ids), "bytes": total})
                n_lost += n_lost_here
                hashes.append(_hash(document.text))
                if 10 * document.text.count("\0") >= len(document.text) > 0:
                    with_nul.append(document.name)
        for file in (ids_file, bytes_file):
            file.flush()
            os.fsync(file.fileno())
    if all_single:
        remove_file(folder / f"{split}.bytes")
    write_bytes(folder / f"{split}.hashes", np.array(hashes, dtype="<u8").tobytes())
    index = {
        "dtype": dtype, "lost_bytes": n_lost, "n_nul": len(with_nul),
        "first_nul": (with_nul or [""])[0], "documents": rows,
    }  # fmt: skip
    write_json(folder / f"{split}.json", index)


def _encode(batch: list[Document], tokenizer: Tokenizer) -> Iterator[tuple[Document, Encoded]]:
    """Yield the documents with their tokens; DataError names the document that cannot be cut."""
    try:
        encoded = tokenizer.encode([document.text for document in batch])
    except DataError:
        for document in batch:  # which one it was, the library does not say
            try:
                tokenizer.encode([document.text])
            except DataError as error:
                raise DataError(f"{document.name}: {error}") from None
        raise
    yield from zip(batch, encoded, strict=True)


def _hash(text: str) -> int:
    """Return the start of a text's SHA-256, and 0 for an empty text: no copy of another."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") if text else 0


def _verify(folder: Path) -> None:
    """Raise DataError if a file differs from what was written."""
    try:
        digests = json.loads(read_own(folder / MANIFEST))
        names = {path.name for path in folder.iterdir()} - {MANIFEST}
        wrong = sorted(names ^ set(digests)) or [
            name for name in sorted(names) if sha256_own(folder / name) != digests[name]
        ]
    except (OSError, ValueError, RecursionError, TypeError) as error:
        refuse_shortage(folder / MANIFEST, error)
        raise DataError(f"{folder / MANIFEST} is damaged ({error}); delete {folder}") from None
    if wrong:
        raise DataError(f"{folder / wrong[0]} is damaged (digest differs); delete {folder}")


def _read(folder: Path, split: Split) -> tuple[Tokens, SplitFacts]:
    try:
        index = json.loads(read_own(folder / f"{split}.json"))
        rows = index["documents"]
        n_tokens = np.array([row["tokens"] for row in rows], dtype=np.int64)
        n_bytes = np.array([row["bytes"] for row in rows], dtype=np.int64)
        facts = SplitFacts(
            n_bytes=int(n_bytes.sum()),
            n_lost=int(index["lost_bytes"]),
            n_vanished=int(((n_tokens == 0) & (n_bytes > 0)).sum()),
            n_nul=int(index["n_nul"]),
            first_nul=str(index["first_nul"]),
            hashes=_map(folder / f"{split}.hashes", "<u8", len(rows)),
        )
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        refuse_shortage(folder / f"{split}.json", error)
        raise DataError(f"{folder / split}.json is damaged ({error}); delete {folder}") from None
    starts = np.concatenate([[0], np.cumsum(n_tokens)]).astype(np.int64)
    path = folder / f"{split}.bytes"
    tokens = Tokens(
        names=tuple(row["name"] for row in rows),
        ids=_map(folder / f"{split}.tokens", index["dtype"], int(starts[-1])),
        starts=starts,
        bytes_per_token=_map(path, "<u2", int(starts[-1])) if own_file_exists(path) else None,
    )
    return tokens, facts


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
