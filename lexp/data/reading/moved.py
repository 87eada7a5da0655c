"""What readings for a longer target length share: pieces of a document, at positions of their own.

A window has as many tokens as in any training run, its positions are spread over target_len. The
sizes and positions of the pieces are drawn for each step and are those of all its rows; where in
its document a row's pieces stand is drawn for each row.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lexp.data.reading.base import Batches, Reading, Windows, drawn_order
from lexp.data.remarks import percent
from lexp.data.tokens import Tokens

FACTOR = 4  # of train_len, unless target_len is given


class Pieces(NamedTuple):
    """The pieces of a step's windows: sizes in tokens, and positions int64 [T] of all of them."""

    sizes: tuple[int, ...]
    positions: np.ndarray


@dataclass(frozen=True)
class Moved(Reading):
    """The base class. target_len: one more than the largest position; None: 4 x train_len."""

    target_len: int | None = None

    @property
    def causal_only(self) -> bool:
        return True

    @property
    def moves_positions(self) -> bool:
        return True

    def target(self, length: int) -> int:
        """Return the target length of windows of `length` tokens; ValueError if it is shorter."""
        target = FACTOR * length if self.target_len is None else self.target_len
        if target < length:
            raise ValueError(f"target_len={target} is less than train_len={length}")
        return target

    def least_inputs(self, length: int) -> int:
        """Return how many inputs a stretch of a document must have to be read."""
        return length

    def most_inputs(self, length: int) -> int:
        """Return how many inputs a stretch of a document has at most."""
        return self.target(length)

    def draw(self, length: int, rng: np.random.Generator) -> Pieces:
        """Draw the pieces of a step. ValueError if `length` tokens are too few for them."""
        raise NotImplementedError

    def starts(self, pieces: Pieces, n_inputs: int, rng: np.random.Generator) -> list[int]:
        """Draw where the pieces of a row begin in its stretch of n_inputs tokens, ascending."""
        raise NotImplementedError

    def batches(
        self, tokens: Tokens, end: int | None, length: int, batch_size: int, seed: int
    ) -> Batches:
        """Return the windows of a run."""
        return MovedBatches(self, tokens, length, batch_size, seed)


class MovedBatches(Batches):
    """Windows of pieces, one for each stretch of a document in each epoch.

    A document is cut into stretches of at most `most_inputs` tokens and the one after them; a rest
    shorter than `least_inputs` is left out.
    """

    def __init__(self, reading: Moved, tokens: Tokens, length: int, batch_size: int, seed: int):
        predictions = np.maximum(tokens.lengths - 1, 0)
        self._most, least = reading.most_inputs(length), reading.least_inputs(length)
        self._predictions = predictions
        per_document = predictions // self._most + (predictions % self._most >= least)
        super().__init__(tokens, length, batch_size, int(per_document.sum()))
        self._is_short = per_document == 0
        self._last_stretch = np.cumsum(per_document)
        self._first_stretch = self._last_stretch - per_document
        self._reading, self._seed = reading, seed
        self._epoch: tuple[int, np.ndarray] | None = None

    def windows(self, places: list[tuple[int, int]], step: int) -> Windows:
        """Return windows at the positions drawn for the step.

        The last token of a piece has no target unless the next piece goes on from there.
        """
        # Three numbers: the order of an epoch is drawn from two.
        rng = np.random.default_rng([self._seed, step, 2])
        pieces = self._reading.draw(self.length, rng)
        rows, are_targets = [], []
        for epoch, place in places:
            document, first, n_inputs = self._stretch(int(self._order(epoch)[place]))
            starts = self._reading.starts(pieces, n_inputs, rng)
            ends = [start + size for start, size in zip(starts, pieces.sizes, strict=True)]
            within = np.concatenate([np.arange(*pair) for pair in zip(starts, ends, strict=True)])
            within = np.append(within, ends[-1])
            rows.append(self.tokens.window(document, first, n_inputs + 1)[within])
            are_targets.append(np.diff(within) == 1)
        return Windows(np.stack(rows), np.stack(are_targets), positions=pieces.positions)

    def remarks(self) -> list[str]:
        """Say to which positions windows are spread, and what is left out."""
        n_tokens = max(1, int(self.tokens.lengths.sum()))
        short = int(self.tokens.lengths[self._is_short].sum()) / n_tokens
        lines = [f"positions up to {self._reading.target(self.length) - 1}"]
        if short:
            least = self._reading.least_inputs(self.length) + 1
            lines.append(
                f"left out: {percent(short)} of the tokens (documents shorter than {least})"
            )
        return lines

    def _stretch(self, number: int) -> tuple[int, int, int]:
        """Return a stretch's document, its first token there, and how many inputs it has."""
        document = int(np.searchsorted(self._last_stretch, number, side="right"))
        first = int(number - self._first_stretch[document]) * self._most
        return document, first, min(self._most, int(self._predictions[document]) - first)

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._epoch = epoch, drawn_order(self.n_windows, rng)
        return self._epoch[1]
