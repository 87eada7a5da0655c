"""The tokens of a split: ids in files that are mapped when read, and where documents begin.

Nothing here grows with the text in memory: names and ids stay on disk, and of the index a document
takes 16 bytes.
"""

import bisect
import itertools
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lexp.system.reading import open_own

# Names are read from disk in pieces of so many.
NAMES_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class MappedFile:
    """An array of n numbers in a file of its own, mapped at its first use.

    path: None where every number is 1, which needs no file. is_random: it is read here and there,
    so the system need not read more of it ahead.
    """

    path: Path | None
    dtype: str
    n: int
    is_random: bool = False

    @cached_property
    def array(self) -> np.ndarray:
        """Return the numbers, read-only; OSError if the file has gone, CheckpointError if a link.

        Its size and digest were checked when the store was opened.
        """
        if self.path is None:
            return np.broadcast_to(np.ones((), dtype=self.dtype), self.n)
        if not self.n:  # an empty file cannot be mapped
            return np.zeros(0, dtype=self.dtype)
        with open_own(self.path) as file:
            size = self.n * np.dtype(self.dtype).itemsize
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        if self.is_random:
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, dtype=self.dtype)


class ShardedArray:
    """One array in several files. Slices are arrays; integer arrays of places, too."""

    def __init__(self, files: Sequence[MappedFile], dtype: str):
        self._files = tuple(files)
        self._ends = list(itertools.accumulate(file.n for file in files))
        self.dtype = np.dtype(dtype)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return numbers by a slice of step 1, or by an array of places from 0."""
        if not isinstance(key, slice):
            return self._at(np.asarray(key))
        first, stop, _ = key.indices(len(self))
        at = bisect.bisect_right(self._ends, first)
        pieces = []
        while first < stop:
            start = self._ends[at] - self._files[at].n
            end = min(stop, self._ends[at])
            pieces.append(self._files[at].array[first - start : end - start])
            first, at = end, at + 1
        # A document lies within one file, so nothing is copied for a window.
        return pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, self._none])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([*self.parts(), self._none]).astype(dtype or self.dtype)

    def parts(self, most: int | None = None) -> Iterator[np.ndarray]:
        """Yield the array file by file. most: how many numbers are asked for in all; None: all."""
        left = len(self) if most is None else most
        for file in self._files:
            if left <= 0:
                return
            yield file.array[:left]
            left -= file.n

    @property
    def _none(self) -> np.ndarray:
        return np.zeros(0, dtype=self.dtype)

    def _at(self, places: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.empty(places.shape, dtype=self.dtype)
        shard = np.searchsorted(self._ends, places, side="right")
        for at in np.unique(shard):
            file, here = self._files[at], shard == at
            found[here] = file.array[places[here] - (self._ends[at] - file.n)]
        return found


class Names(Sequence[str]):
    """The names of a split's documents, on disk end to end, read one by one."""

    def __init__(self, text: MappedFile, ends: MappedFile):
        self._text, self._ends = text, ends

    def __len__(self) -> int:
        return self._ends.n

    def __iter__(self) -> Iterator[str]:
        first = 0
        for at in range(0, len(self), NAMES_AT_ONCE):
            ends = self._ends.array[at : at + NAMES_AT_ONCE].tolist()
            text = self._text.array[first : ends[-1]].tobytes()
            start = first
            for end in ends:
                yield decode_name(text[start - first : end - first])
                start = end
            first = ends[-1]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return tuple(self[at] for at in range(*key.indices(len(self))))
        at = range(len(self))[key]
        first = int(self._ends.array[at - 1]) if at else 0
        return decode_name(self._text.array[first : int(self._ends.array[at])].tobytes())


def encode_name(name: str) -> bytes:
    """Return a document's name as bytes; names of files need not be UTF-8."""
    return name.encode(errors="surrogatepass")


def decode_name(data: bytes) -> str:
    """Return the name that `encode_name` was given."""
    return data.decode(errors="surrogatepass")


@dataclass(frozen=True)
class Tokens:
    """The documents of one split: their ids, and where each document begins.

    ids [n]; starts [documents + 1]; bytes_per_token [n], or None where every token is one byte.
    n_with_end: documents that hold the token that ends a text; None: nobody has counted.
    """

    names: Sequence[str]
    ids: np.ndarray | ShardedArray
    starts: np.ndarray
    bytes_per_token: np.ndarray | ShardedArray | None
    n_with_end: int | None = None

    @cached_property
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

    def places(self, is_meant: Any, most: int | None = None) -> np.ndarray:
        """Return the places of ids for which a function of arrays is true. most: ids searched."""
        if isinstance(self.ids, np.ndarray):
            return np.flatnonzero(is_meant(self.ids[:most]))
        found: list[np.ndarray] = []
        first = 0
        for part in self.ids.parts(most):
            found.append(np.flatnonzero(is_meant(part)) + first)
            first += len(part)
        return np.concatenate([*found, np.zeros(0, dtype=np.int64)])
