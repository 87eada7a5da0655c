"""Tokenizers: text to ids, and how many bytes of text each id stands for.

The byte counts make bits per byte exact for any set of scored tokens, whatever the vocabulary.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lexp.data.charsmap import check_charsmap
from lexp.data.corpus import Corpus, Document
from lexp.data.cuts import cuts_at_spaces, pieces
from lexp.data.lost_text import TextRestorer
from lexp.data.progress import TextProgress
from lexp.system.errors import ConfigError, DataError, first_line
from lexp.system.files import read_sealed, write_sealed, write_text
from lexp.system.reading import own_file_exists, read_text

# Ids have to be rows of an embedding; none of 16 million is trained.
MOST_IDS = 1 << 24
# Tokens that end a text in published vocabularies, in the order in which they are looked for:
# GPT-2, GPT-NeoX and Qwen; Llama 3; Llama 2, Mistral and T5; Gemma; others; DeepSeek.
# tokenizer=bpe takes the first.
END_TOKENS = (
    "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip
# In bytes; no word of a text with spaces is that long, and its vocabulary is the same without.
LONGEST_PIECE = 1000
# Pieces of a text that the `tokenizers` library has at once, a thread for each.
PIECES_AT_ONCE = 8
# Of English in vocabularies of the usual size.
BYTES_PER_TOKEN = 4


class Encoded(NamedTuple):
    """Token ids of one text and the bytes of each, both [n]; the bytes sum to the text's.

    n_lost: bytes of the text that the ids cannot give back.
    """

    ids: np.ndarray
    n_bytes: np.ndarray
    n_lost: int = 0


class Tokenizer(Protocol):
    """A fixed vocabulary; `digest` changes whenever any text would be tokenised differently.

    end: id of the token that ends a text; None: it has none. begin: ids that the vocabulary's own
    rules put before a text, mostly none. `encode` adds neither.
    """

    vocab_size: int
    digest: str
    end: int | None
    begin: tuple[int, ...]

    def encode(self, texts: list[str]) -> list[Encoded]:
        """Cut each text into tokens; no special tokens are added."""
        ...

    def decode(self, rows: list[list[int]]) -> list[str]:
        """Return the text of each row of ids; tokens that stand for no text are left out."""
        ...

    def save(self, folder: Path) -> None:
        """Write to `folder` what `load_tokenizer` reads."""
        ...


class Bytes:
    """UTF-8 bytes, vocabulary 256: nothing to train or download, and every text fits."""

    vocab_size = 256
    digest = "bytes"
    end: int | None = 0
    begin: tuple[int, ...] = ()

    def encode(self, texts: list[str]) -> list[Encoded]:
        """Return one token per byte."""
        raw = [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]
        one: np.ndarray = np.ones((), dtype=np.uint16)  # in one place for all tokens
        return [Encoded(ids, np.broadcast_to(one, len(ids))) for ids in raw]

    def decode(self, rows: list[list[int]]) -> list[str]:
        """Return the text of bytes; those that are no UTF-8 are shown as U+FFFD."""
        return [bytes(row).decode(errors="replace") for row in rows]

    def save(self, folder: Path) -> None:
        """Write nothing."""


class Subwords:
    """A vocabulary of the `tokenizers` library, from its JSON.

    vocab_size: the largest id + 1, as ids may have gaps. DataError if the JSON is not valid, has no
    tokens, or makes tokens that differ from call to call.
    """

    def __init__(self, json_text: str, origin: str):
        from tokenizers import Tokenizer as Fast

        self._origin = f"tokenizer {origin}"
        try:
            _check(json_text)
            with _library_errors("cannot be read"):
                self._fast = Fast.from_str(json_text)
            self._fast.no_padding()
            self._fast.no_truncation()
            self.vocab_size = 1 + max(
                self._fast.get_vocab(with_added_tokens=True).values(), default=-1
            )
            if not self.vocab_size:
                raise DataError("its vocabulary is empty")
            if self.vocab_size > MOST_IDS:
                raise DataError(
                    f"ids go up to {self.vocab_size - 1}; allowed: up to {MOST_IDS - 1}"
                )
        except DataError as error:
            raise DataError(f"{self._origin}: {error}") from None
        self._restorer = TextRestorer(self._fast, json_text)
        self._cuts = cuts_at_spaces(json.loads(json_text))
        self._json = json_text
        ids = (self._fast.token_to_id(token) for token in END_TOKENS)
        self.end: int | None = next((id_ for id_ in ids if id_ is not None), None)
        self.begin = self._begin()
        self.digest = text_digest(json_text)

    def encode(self, texts: list[str]) -> list[Encoded]:
        """Return ids and byte counts; the bytes follow from each token's character span.

        Long texts are encoded in pieces, if that surely makes the same tokens.
        """
        parts = [list(pieces(text)) if self._cuts else [text] for text in texts]
        if all(len(part) == 1 for part in parts):
            return self._encode(texts)
        return [self._joined(text, part) for text, part in zip(texts, parts, strict=True)]

    def _joined(self, text: str, parts: list[str]) -> Encoded:
        found: list[Encoded] = []
        for first in range(0, len(parts), PIECES_AT_ONCE):
            found += self._encode(parts[first : first + PIECES_AT_ONCE])
        if len(parts) > 1 and any(part.n_lost for part in found):
            # Characters without a token count for the next one, which may be in another piece.
            return self._encode([text])[0]
        ids, n_bytes, n_lost = zip(*found, strict=True)
        return Encoded(np.concatenate(ids), np.concatenate(n_bytes), sum(n_lost))

    def _encode(self, texts: list[str]) -> list[Encoded]:
        with _library_errors(f"{self._origin}: cannot cut this text"):
            encodings = self._fast.encode_batch(texts, add_special_tokens=False)
            ids = [e.ids for e in encodings]
            lost = self._restorer.count_lost(texts, ids)
        return [
            Encoded(np.array(row, dtype=np.uint32), bytes_per_token(text, e.offsets), n_lost)
            for text, e, row, n_lost in zip(texts, encodings, ids, lost, strict=True)
        ]

    def decode(self, rows: list[list[int]]) -> list[str]:
        """Return the text of each row; special tokens are left out."""
        return self._fast.decode_batch(rows, skip_special_tokens=True)

    def _begin(self) -> tuple[int, ...]:
        """Return the ids that the post-processor puts before a text."""
        with _library_errors(f"{self._origin}: cannot cut this text"):
            bare, whole = (
                self._fast.encode("a", add_special_tokens=added).ids for added in (False, True)
            )
        return next(
            tuple(whole[:n]) for n in range(len(whole) + 1) if whole[n : n + len(bare)] == bare
        )

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        write_text(folder / "tokenizer.json", self._json)


def text_digest(json_text: str) -> str:
    """Return the digest of a vocabulary's JSON."""
    return hashlib.sha256(json_text.encode()).hexdigest()


@contextlib.contextmanager
def _library_errors(what: str) -> Iterator[None]:
    """Raise what the `tokenizers` library raises in the block as a DataError."""
    try:
        yield
    except MemoryError:
        raise
    except BaseException as error:
        # The library raises bare Exception, and for its panics a BaseException of its own.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise DataError(f"{what}: {first_line(error)}") from None
        raise


def _check(json_text: str) -> None:
    """Raise DataError for what the library takes and lexp does not; the rest the library checks."""
    try:
        settings = json.loads(json_text)
        model = settings["model"]
        normalizers = [settings.get("normalizer") or {}]
        for part in normalizers:  # grows while it is read
            normalizers += part.get("normalizers", [])
            if part.get("type") == "Precompiled":
                check_charsmap(part["precompiled_charsmap"])
        dropout = model.get("dropout")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot be read: {first_line(error)}") from None
    if dropout:
        raise DataError(f"dropout={dropout} makes random tokens; set it to null in the file")


def bytes_per_token(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """Return the bytes of text from the end of the previous token to the end of each, uint16 [n].

    If tokens share a character (each holds a part of a multi-byte character), the first of them
    gets it. Characters between tokens go to the next token, and characters after the last token to
    the last, so the sum is always the text's.
    """
    if not offsets:
        return np.zeros(0, dtype=np.uint16)
    ends = np.maximum.accumulate(np.array([end for _, end in offsets]))
    ends[-1] = len(text)
    if not text.isascii():
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        widths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
        ends = np.concatenate([[0], np.cumsum(widths, dtype=np.int64)])[ends]
    counts = np.diff(ends, prepend=0)
    if counts.max() > np.iinfo(np.uint16).max:
        raise DataError(f"one token covers {counts.max()} bytes; is this a tokenizer for text?")
    return counts.astype(np.uint16)


class TokenizerSpec:
    """A configured vocabulary, which may still have to be trained or downloaded."""

    def load(self, corpus: Corpus, cache: Path) -> Tokenizer:
        """Return the tokenizer; `cache` holds trained vocabularies."""
        raise NotImplementedError

    def load_with_end(self, corpus: Corpus, cache: Path) -> Tokenizer:
        """Return the tokenizer with a token that ends texts; DataError if it has none."""
        tokenizer = self.load(corpus, cache)
        if tokenizer.end is None:
            raise DataError(
                "reading=packed puts a token between documents, and this tokenizer has none that "
                f"ends a text ({', '.join(END_TOKENS)}); use reading=padded or reading=documents"
            )
        return tokenizer


class BytesSpec(TokenizerSpec):
    """The vocabulary of tokenizer=bytes."""

    def load(self, corpus: Corpus, cache: Path) -> Tokenizer:
        """Return the byte tokenizer; it needs no corpus."""
        return Bytes()


class BPESpec(TokenizerSpec):
    """Byte-level BPE, tokenizer=bpe: trained on the train split, cached by the corpus's content."""

    def __init__(self, vocab_size: int):
        if not 257 <= vocab_size <= 1 << 20:
            raise ConfigError(f"tokenizer.vocab_size={vocab_size}: bpe takes 257 to 1048576")
        self.vocab_size = vocab_size

    def load(self, corpus: Corpus, cache: Path) -> Tokenizer:
        """Read the cached vocabulary, or train it."""
        return Subwords(*self._trained(corpus, cache))

    def load_with_end(self, corpus: Corpus, cache: Path) -> Tokenizer:
        """Return the vocabulary with one more token, which ends texts."""
        json_text, path = self._trained(corpus, cache)
        return Subwords(with_token(json_text, END_TOKENS[0]), path)

    def _trained(self, corpus: Corpus, cache: Path) -> tuple[str, str]:
        """Return the JSON of the vocabulary, and the path of its file."""
        path = cache / f"bpe-{self.vocab_size}-{corpus.fingerprint()[:16]}-3.json"
        if not own_file_exists(path):
            most = corpus.max_tokens and BYTES_PER_TOKEN * corpus.max_tokens
            progress = TextProgress("training a BPE vocabulary", corpus.n_bytes() or most)
            documents = _within_budget(corpus.documents("train"), corpus.max_tokens)
            texts = (document.text for document in progress.follow(documents))
            write_sealed(path, {"tokenizer": train_bpe(texts, self.vocab_size)})
        try:
            return read_sealed(path)["tokenizer"], str(path)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} cannot be read ({error}); delete it") from None


def _within_budget(documents: Iterator[Document], max_tokens: int | None) -> Iterator[Document]:
    """Yield documents until they have about max_tokens tokens, at BYTES_PER_TOKEN bytes each."""
    n_bytes = 0
    for document in documents:
        yield document
        n_bytes += len(document.text.encode())
        if max_tokens is not None and n_bytes >= BYTES_PER_TOKEN * max_tokens:
            return


class FileSpec(TokenizerSpec):
    """The vocabulary of tokenizer=file: a tokenizer.json of the `tokenizers` library."""

    def __init__(self, path: str):
        self.path = Path(path)

    def load(self, corpus: Corpus, cache: Path) -> Tokenizer:
        """Read the file."""
        if not self.path.is_file():
            raise DataError(f"tokenizer.path={self.path} is not a file")
        return read_subwords(self.path)


class HubSpec(TokenizerSpec):
    """The vocabulary of tokenizer=hub: the tokenizer.json of a hub repository."""

    def __init__(self, id: str, revision: str = "main"):
        self.id, self.revision = id, revision

    def load(self, corpus: Corpus, cache: Path) -> Tokenizer:
        """Download (or find in the hub's cache) and read it."""
        from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

        try:
            path = try_to_load_from_cache(self.id, "tokenizer.json", revision=self.revision)
            if not isinstance(path, str):
                # Without a network this fails at once; the download would retry for half a minute.
                HfApi().model_info(self.id, revision=self.revision, timeout=10)
                path = hf_hub_download(self.id, "tokenizer.json", revision=self.revision)
        except Exception as error:
            reason = first_line(error)
            raise DataError(f"tokenizer {self.id}@{self.revision}: {reason}") from None
        return read_subwords(Path(path))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer that `save` wrote to a run folder."""
    path = folder / "tokenizer.json"
    return read_subwords(path) if own_file_exists(path) else Bytes()


def read_subwords(path: Path) -> Subwords:
    """Read the vocabulary of a tokenizer.json; DataError if it is not valid."""
    try:
        return Subwords(read_text(path), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"tokenizer {path} cannot be read: {error}") from None


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """Train byte-level BPE and return its JSON; it contains every byte, so any text fits.

    Words of more than LONGEST_PIECE bytes are trained on in pieces: a merge costs as much as the
    words that it is in, so text without spaces (DNA, say) would take quadratic time.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Fast

    fast = Fast(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = pre_tokenizers.Split(Regex(f".{{1,{LONGEST_PIECE}}}"), "isolated")
    fast.pre_tokenizer = pre_tokenizers.Sequence([words, pieces])
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(_counted(texts), trainer)
    fast.pre_tokenizer = words
    return fast.to_str()


def with_token(json_text: str, token: str) -> str:
    """Return the JSON of a vocabulary with one more token, whose id follows the last."""
    from tokenizers import Tokenizer as Fast

    fast = Fast.from_str(json_text)
    fast.add_special_tokens([token])
    return fast.to_str()


def _counted(texts: Iterable[str]) -> Iterator[Any]:
    empty = True
    for text in texts:
        empty = False
        yield from pieces(text)  # the library takes 256 texts at once
    if empty:
        raise DataError("tokenizer=bpe is trained on the train split, and that is empty")
