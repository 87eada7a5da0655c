"""reading=documents: windows within documents; what is shorter than a window is left out."""

from dataclasses import dataclass

import numpy as np

from lexp.data.reading.base import Batches, Reading, Windows, drawn_order, smallest_type
from lexp.data.remarks import percent
from lexp.data.tokens import Tokens

# An epoch that leaves out a larger share of the tokens names the reading that uses all.
MUCH = 0.1


@dataclass(frozen=True)
class Documents(Reading):
    """Windows that never cross documents."""

    def batches(
        self, tokens: Tokens, end: int | None, length: int, batch_size: int, seed: int
    ) -> Batches:
        """Return the windows of a run."""
        return DocumentBatches(tokens, length, batch_size, seed)


class DocumentBatches(Batches):
    """Windows of length + 1 tokens, shuffled again in each epoch.

    An epoch cuts each document into as many windows as fit, from a start that is drawn for the
    epoch, and predicts each token at most once. Documents shorter than a window are left out.
    """

    def __init__(self, tokens: Tokens, length: int, batch_size: int, seed: int):
        predictions = np.maximum(tokens.lengths - 1, 0)
        per_document = predictions // length
        super().__init__(tokens, length, batch_size, int(per_document.sum()))
        self._seed = seed
        self._is_short = per_document == 0
        self._slack = (predictions - per_document * length).astype(smallest_type(length))
        self._last_window = np.cumsum(per_document)
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    def windows(self, places: list[tuple[int, int]], step: int) -> Windows:
        """Return windows of which every token is a target."""
        return Windows(np.stack([self._window(*place) for place in places]))

    def remarks(self) -> list[str]:
        """Say which share of the tokens an epoch leaves out."""
        n_tokens = max(1, int(self.tokens.lengths.sum()))
        short = int(self.tokens.lengths[self._is_short].sum()) / n_tokens
        tails = int(self._slack[~self._is_short].sum()) / n_tokens
        line = (
            f"left out: {percent(short)} of the tokens (documents shorter than {self.length + 1})"
        )
        if short + tails >= MUCH:
            line += (
                f", and in each epoch {percent(tails)} (ends of others); reading=packed uses all"
            )
        return [line] if short or short + tails >= MUCH else []

    def _window(self, epoch: int, place: int) -> np.ndarray:
        order, starts = self._shuffled(epoch)
        window = int(order[place])
        document = int(np.searchsorted(self._last_window, window, side="right"))
        within = int(window - (self._last_window[document - 1] if document else 0))
        first = int(starts[document]) + within * self.length
        return self.tokens.window(document, first, self.length + 1)

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            order = drawn_order(self.n_windows, rng)
            starts = rng.integers(self._slack + 1).astype(self._slack.dtype)
            self._epoch = epoch, order, starts
        return self._epoch[1], self._epoch[2]
