"""What a reading is: how the windows of training are cut from tokenised documents."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from lexp.data.tokens import Tokens
from lexp.system.errors import DataError
from lexp.system.text import counted


class Windows(NamedTuple):
    """The windows of a step, B rows of T + 1 tokens: T inputs, and the token after each.

    tokens: int64 [B, T + 1]. is_target: bool [B, T], which of tokens[:, 1:] are predicted; None:
    all. starts: bool [B, T], the inputs with which a document begins, if attention is kept within
    documents; None: it is not. positions: int64 [T], those of every row's inputs; None: 0 .. T-1.
    """

    tokens: np.ndarray
    is_target: np.ndarray | None = None
    starts: np.ndarray | None = None
    positions: np.ndarray | None = None


def drawn_order(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return 0 .. n-1 in the order of rng.permutation(n), in half the memory up to 2^32."""
    order = np.arange(n, dtype=smallest_type(n))
    rng.shuffle(order)
    return order


def smallest_type(n: int) -> type[np.integer]:
    """Return a type that has the numbers 0 .. n-1; an epoch may have many millions of each."""
    return np.uint32 if n <= 1 << 32 else np.int64


class Batches:
    """The windows of a run: a pure function of (seed, step), so resuming needs the step alone.

    length: T, the inputs of a window. n_windows: of an epoch. tokens: the documents.
    """

    def __init__(self, tokens: Tokens, length: int, batch_size: int, n_windows: int):
        if n_windows < batch_size:
            longest = int(tokens.lengths.max(initial=0))
            raise DataError(
                f"the train split gives {counted(n_windows, 'window')} of train_len={length} "
                f"tokens, one batch needs {batch_size} (longest document: {longest} tokens)"
            )
        self.tokens, self.length = tokens, length
        self.batch_size, self.n_windows = batch_size, n_windows

    @property
    def epoch_targets(self) -> int:
        """Return how many tokens an epoch predicts."""
        return self.n_windows * self.length

    def remarks(self) -> list[str]:
        """Return what a user should know of the tokens that are read, a line each."""
        return []

    def batch(self, step: int) -> Windows:
        """Return the windows of a step, counted from 0."""
        first = step * self.batch_size
        indices = range(first, first + self.batch_size)
        return self.windows([divmod(index, self.n_windows) for index in indices], step)

    def windows(self, places: list[tuple[int, int]], step: int) -> Windows:
        """Return the windows at places of epochs, each an epoch and a place in its order."""
        raise NotImplementedError


@dataclass(frozen=True)
class Reading:
    """A way to cut windows from documents.

    needs_end: a token stands between documents, which the tokenizer must have.
    """

    needs_end: ClassVar[bool] = False

    @property
    def causal_only(self) -> bool:
        """Return whether it is not defined for models that see both sides."""
        return False

    @property
    def within_documents(self) -> bool:
        """Return whether attention is kept within the documents of a row."""
        return False

    @property
    def moves_positions(self) -> bool:
        """Return whether windows have positions other than 0 .. T-1."""
        return False

    def batches(
        self, tokens: Tokens, end: int | None, length: int, batch_size: int, seed: int
    ) -> Batches:
        """Return the windows of a run; DataError if the documents are too few or too short.

        end: id of the token that ends a text, given where `needs_end`. length: inputs of a window.
        """
        raise NotImplementedError
