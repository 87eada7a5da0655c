"""Tokenised documents on disk: written once per (corpus, tokenizer), then memory-mapped.

<cache>/<corpus>-<tokenizer>/train-00000.tokens   ids, little-endian, uint8/16/32
                             train-00000.bytes    bytes of text per token, uint16; absent: all 1
                             train-00001.tokens   further shards of a long text
                             train.starts         first token of each document and the end, int64
                             train.hashes         start of its text's SHA-256, uint64; empty: 0
                             train.names          names, UTF-8, end to end
                             train.name_ends      where each name ends, int64
                             manifest.json        what was lost, and SHA-256 of each file
                             checked.json         files as they were when a digest was checked

Digests are checked at the first opening, and again of files that have changed since.
"""

import contextlib
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lexp.data.corpus import SPLITS, Corpus, Split
from lexp.data.progress import TextProgress
from lexp.data.shard_files import SplitRecord, SplitWriter, StoreRecord, shard_name
from lexp.data.tokenise import encoded, id_dtype, until
from lexp.data.tokenizer import Tokenizer
from lexp.data.tokens import MappedFile, Names, ShardedArray, Tokens
from lexp.data.unchanged import State, is_settled, read_states, state_of, write_states
from lexp.data.work_folder import work_folder, writing_alone
from lexp.system.errors import CheckpointError, DataError, OutOfMemory, first_line, refuse_shortage
from lexp.system.files import (
    make_folder,
    publish,
    read_sealed,
    remove_file,
    remove_folder,
    sha256_own,
    storage,
    sync_folder,
    write_sealed,
)
from lexp.system.links import refuse_links
from lexp.system.output import say
from lexp.system.reading import require_file

MANIFEST, CHECKED = "manifest.json", "checked.json"
FORMAT = 4  # 1 had no digests, 2 no hashes of documents, 3 no shards


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


def open_store(corpus: Corpus, tokenizer: Tokenizer, cache: Path, anew: bool = False) -> Store:
    """Memory-map the tokenised corpus; tokenise it at its first use.

    anew: check all digests, also of files that have not changed since they were checked.
    """
    fingerprint = corpus.fingerprint()
    folder = store_folder(cache, fingerprint, tokenizer)
    if not folder.is_dir():
        make_folder(folder.parent)
        with writing_alone(folder):
            if not folder.is_dir():  # another process may have written it meanwhile
                _write(corpus, tokenizer, folder)
    _verify(folder, anew)
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
    manifest = _read_manifest(folder)
    splits: dict[Split, Tokens] = {}
    facts: dict[Split, SplitFacts] = {}
    for split in SPLITS:
        with _damage(folder / MANIFEST):
            splits[split], facts[split] = _read(folder, split, manifest)
    return Store(splits, facts, fingerprint, tokenizer, folder)


def stored_hashes(folder: Path, split: Split) -> np.ndarray | None:
    """Return the hashes of a split's documents from a store; None if it is absent or damaged."""
    name = f"{split}.hashes"
    try:
        manifest = _read_manifest(folder)
        _check(folder, {name: manifest["files"][name]}, read_states(folder / CHECKED))
        return _read(folder, split, manifest)[1].hashes
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def _write(corpus: Corpus, tokenizer: Tokenizer, folder: Path) -> None:
    """Write next to the target and rename: what has the store's name is whole."""
    with storage(folder), work_folder(folder) as (work, record):
        progress = TextProgress("tokenising", corpus.n_bytes(), corpus.max_tokens)
        if record.n_documents:
            say(f"lexp: tokenising: {record.n_documents} documents were done by an earlier start")
            known = record.splits.values()
            progress.begin_at(sum(s.n_bytes for s in known), sum(s.n_tokens for s in known))
        for split in SPLITS:
            if not record.splits[split].is_whole:
                _write_split(corpus, split, tokenizer, work, record, progress)
        progress.end()
        dtype = id_dtype(tokenizer.vocab_size)
        write_sealed(
            work / MANIFEST,
            {
                "format": FORMAT,
                "dtype": dtype,
                "splits": {split: asdict(of_split) for split, of_split in record.splits.items()},
                "files": record.digests,
            },
        )
        _keep_states(work, record.states, time.time_ns())
        for name in {path.name for path in work.iterdir()} - {MANIFEST, CHECKED, *record.digests}:
            remove_file(work / name)
        sync_folder(work)  # a power loss must not bring back what is not of the store
        try:
            publish(work, folder)
        except OSError:
            remove_folder(work)
            if not folder.is_dir():  # otherwise another run has written the same content
                raise


def _write_split(
    corpus: Corpus,
    split: Split,
    tokenizer: Tokenizer,
    work: Path,
    record: StoreRecord,
    progress: TextProgress,
) -> None:
    """Tokenise a split from where its record ends."""
    with SplitWriter(work, split, record) as writer:
        progress.begin_split(split, writer.of_split.n_tokens)
        documents = islice(corpus.documents(split), writer.of_split.n_documents, None)
        with closing(encoded(documents, tokenizer)) as batches:
            for batch in until(batches, corpus.max_tokens, writer.of_split.n_tokens):
                writer.add(batch)
                progress.advance(int(batch.text_bytes.sum()), len(batch.ids))
        writer.finish()
        if record.index:  # a shard is whole
            writer.keep()


def _verify(folder: Path, anew: bool) -> None:
    """Raise DataError if a file differs from what was written.

    anew: read also files that have not changed since their digest was checked.
    """
    began_ns = time.time_ns()
    digests = _read_manifest(folder)["files"]
    with _damage(folder / MANIFEST):
        # Names that begin with a dot: of file systems, and of who writes CHECKED at this moment.
        names = {file.name for file in folder.iterdir() if file.name[0] != "."}
        wrong = sorted((names - {MANIFEST, CHECKED}) ^ set(digests))
    if wrong:
        raise DataError(
            f"{folder / wrong[0]} is damaged (missing, or not of lexp); delete {folder}"
        )
    known = {} if anew else read_states(folder / CHECKED)
    states = _check(folder, digests, known)
    if states != known:
        _keep_states(folder, states, began_ns)


def _check(folder: Path, digests: dict[str, str], known: dict[str, State]) -> dict[str, State]:
    """Return the states of files; DataError for one that has another digest.

    known: states in which they had the right one.
    """
    states = {}
    for name, expected in digests.items():
        path = folder / name
        with _damage(path):
            refuse_links(path, CheckpointError)
            require_file(path.stat().st_mode, path)
            states[name] = state_of(path)
            is_right = states[name] == known.get(name) or sha256_own(path) == expected
        if not is_right:
            raise DataError(f"{path} is damaged (digest differs); delete {folder}")
    return states


def _keep_states(folder: Path, states: dict[str, State], now_ns: int) -> None:
    """Keep the states of checked files, but of those that were changed just before a time."""
    settled = {name: state for name, state in states.items() if is_settled(state, now_ns)}
    if settled:
        write_states(folder / CHECKED, settled)


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Raise errors of reading a file of a store as a DataError that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse_shortage(path, error)
        raise DataError(f"{path} is damaged ({error}); delete {path.parent}") from None


def _read_manifest(folder: Path) -> dict[str, Any]:
    with _damage(folder / MANIFEST):
        return read_sealed(folder / MANIFEST)


def _read(folder: Path, split: Split, manifest: dict[str, Any]) -> tuple[Tokens, SplitFacts]:
    record = SplitRecord(**manifest["splits"][split])
    n = record.n_documents

    def mapped(name: str, dtype: str, length: int) -> MappedFile:
        path = folder / name
        size, expected = path.stat().st_size, length * np.dtype(dtype).itemsize
        if size != expected:
            raise DataError(f"{path} has {size} bytes, not {expected}; delete {folder}")
        return MappedFile(path, dtype, length, is_random=name.endswith(".tokens"))

    def shards(kind: str, dtype: str) -> ShardedArray:
        return ShardedArray(
            [mapped(shard_name(split, at, kind), dtype, length)
             if kind == "tokens" or has_bytes else MappedFile(None, dtype, length)
             for at, (length, has_bytes) in enumerate(record.shards)],
            dtype,
        )  # fmt: skip

    name_ends = mapped(f"{split}.name_ends", "<i8", n)
    text = folder / f"{split}.names"
    is_split = any(has_bytes for _, has_bytes in record.shards)
    tokens = Tokens(
        names=Names(MappedFile(text, "u1", text.stat().st_size), name_ends),
        ids=shards("tokens", manifest["dtype"]),
        starts=mapped(f"{split}.starts", "<i8", n + 1).array,
        bytes_per_token=shards("bytes", "<u2") if is_split else None,
        n_with_end=record.n_with_end,
    )
    facts = SplitFacts(
        n_bytes=record.n_bytes,
        n_lost=record.n_lost,
        n_vanished=record.n_vanished,
        n_nul=record.n_nul,
        first_nul=record.first_nul,
        hashes=mapped(f"{split}.hashes", "<u8", n).array,
    )
    return tokens, facts
