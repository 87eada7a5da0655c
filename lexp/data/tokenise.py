"""Documents to tokens: in this process for short texts, in a process per core for long ones.

What is in memory does not grow with the text: documents are taken in batches, and a few batches for
each process are under way. The longest document alone sets how much that is.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np

from lexp.data.corpus import Document
from lexp.data.tokenizer import Bytes, Tokenizer
from lexp.system.errors import DataError
from lexp.system.output import make_libraries_plain

# Documents are handed on in batches of about this many characters, which the `tokenizers` library
# needs about 0.2 GB for.
BATCH_CHARACTERS = 1 << 20
# Texts of fewer characters are done before processes have started.
FEW_CHARACTERS = 1 << 24
# Batches under way for each process: one in it, and one that waits for it.
AHEAD = 2


class EncodedDocuments(NamedTuple):
    """The tokens of a batch of documents, end to end, and what its text says.

    ids [n]; n_bytes: of each token, uint16 [n], None where all are 1; lengths, text_bytes: of each
    document, int64; hashes: starts of the SHA-256 of the texts, uint64, 0 for an empty text; lost:
    bytes of each that the tokens cannot give back; has_nul: whether NUL is a tenth of each or more;
    has_end: whether the token that ends a text is among its own.
    """

    names: tuple[str, ...]
    ids: np.ndarray
    n_bytes: np.ndarray | None
    lengths: np.ndarray
    text_bytes: np.ndarray
    hashes: np.ndarray
    lost: np.ndarray
    has_nul: np.ndarray
    has_end: np.ndarray

    def first(self, n: int) -> "EncodedDocuments":
        """Return the first n of the documents."""
        end = int(self.lengths[:n].sum())
        n_bytes = None if self.n_bytes is None else self.n_bytes[:end]
        of_documents = self[3:]
        return EncodedDocuments(
            self.names[:n], self.ids[:end], n_bytes, *(values[:n] for values in of_documents)
        )


def id_dtype(vocab_size: int) -> str:
    """Return the smallest little-endian type that holds every id."""
    return "<u1" if vocab_size <= 1 << 8 else "<u2" if vocab_size <= 1 << 16 else "<u4"


def encoded(
    documents: Iterable[Document], tokenizer: Tokenizer
) -> Generator[EncodedDocuments, None, None]:
    """Yield documents with their tokens, in their order. DataError names one that cannot be cut.

    MemoryError if a process was killed. Close the iterator if it is not read to its end: it may
    have started processes.
    """
    batches, n_characters = _batches(documents), 0
    n_processes = len(os.sched_getaffinity(0))
    for batch in batches:
        yield encode(batch, tokenizer)
        n_characters += sum(len(document.text) for document in batch)
        # Bytes are cut in less time than it takes to send them.
        is_long = n_characters >= FEW_CHARACTERS and not isinstance(tokenizer, Bytes)
        if is_long and n_processes > 1:
            break
    else:
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n_processes, context, initializer=_begin_child)
    try:
        yield from _in_order(pool, batches, tokenizer, AHEAD * n_processes)
    except BrokenProcessPool:
        raise MemoryError("a process that tokenises was killed") from None
    finally:
        pool.shutdown(cancel_futures=True)


def until(
    batches: Iterator[EncodedDocuments], max_tokens: int | None, n_tokens: int
) -> Iterator[EncodedDocuments]:
    """Yield batches to the document with which there are max_tokens. n_tokens: there were before.

    What is after it is not asked for, but for batches under way in other processes.
    """
    if max_tokens is None:
        yield from batches
        return
    while n_tokens < max_tokens and (batch := next(batches, None)) is not None:
        so_far = n_tokens + np.cumsum(batch.lengths)
        part = batch.first(1 + int(np.searchsorted(so_far, max_tokens)))
        yield part
        n_tokens += len(part.ids)


def _in_order(
    pool: ProcessPoolExecutor, batches: Iterator[list[Document]], tokenizer: Tokenizer, ahead: int
) -> Iterator[EncodedDocuments]:
    waiting: deque[Future[EncodedDocuments]] = deque()
    for batch in batches:
        waiting.append(pool.submit(encode, batch, tokenizer))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _begin_child() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core
    make_libraries_plain()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a child of `encoded`"
    parent.join()
    os._exit(1)


def encode(batch: Sequence[Document], tokenizer: Tokenizer) -> EncodedDocuments:
    """Return a batch of documents with their tokens; DataError names one that cannot be cut."""
    texts = [document.text for document in batch]
    try:
        cut = tokenizer.encode(texts)
    except DataError:
        for document in batch:  # which one it was, the library does not say
            try:
                tokenizer.encode([document.text])
            except DataError as error:
                raise DataError(f"{document.name}: {error}") from None
        raise
    data = [text.encode() for text in texts]
    n_bytes = _end_to_end([document.n_bytes for document in cut], "<u2")
    ids = _end_to_end([document.ids for document in cut], id_dtype(tokenizer.vocab_size))
    lengths = np.array([len(document.ids) for document in cut], dtype=np.int64)
    has_end: np.ndarray = np.zeros(len(cut), dtype=bool)
    if tokenizer.end is not None:
        places = np.flatnonzero(ids == tokenizer.end)
        has_end[np.searchsorted(np.cumsum(lengths), places, side="right")] = True
    return EncodedDocuments(
        names=tuple(document.name for document in batch),
        ids=ids,
        n_bytes=None if bool((n_bytes == 1).all()) else n_bytes,
        lengths=lengths,
        text_bytes=np.array([len(text) for text in data], dtype=np.int64),
        hashes=np.array([_hash(text) for text in data], dtype="<u8"),
        lost=np.array([document.n_lost for document in cut], dtype=np.int64),
        has_end=has_end,
        has_nul=np.array([10 * text.count("\0") >= len(text) > 0 for text in texts]),
    )


def _end_to_end(parts: list[np.ndarray], dtype: str) -> np.ndarray:
    """Return arrays in one; a single one, which may be large, is not copied."""
    if len(parts) == 1:
        return parts[0].astype(dtype, copy=False)
    return np.concatenate(parts, dtype=dtype)


def _hash(text: bytes) -> int:
    """Return the start of a text's SHA-256, and 0 for an empty text: no copy of another."""
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") if text else 0


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
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
