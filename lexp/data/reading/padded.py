"""reading=padded: each document from its start, its last window padded. For short documents."""

from dataclasses import dataclass

import numpy as np

from lexp.data.reading.base import Batches, Reading, Windows, drawn_order
from lexp.data.tokens import Tokens

PADDING = 0  # any id: nobody sees it, and it is no target


@dataclass(frozen=True)
class Padded(Reading):
    """Windows within documents, padded at the right, where no earlier token sees the padding."""

    @property
    def causal_only(self) -> bool:
        return True

    def batches(
        self, tokens: Tokens, end: int | None, length: int, batch_size: int, seed: int
    ) -> Batches:
        """Return the windows of a run."""
        return PaddedBatches(tokens, length, batch_size, seed)


class PaddedBatches(Batches):
    """Windows of length + 1 tokens, shuffled in each epoch, which predicts each token once.

    Left out are the documents of a single token, in which there is nothing to predict.
    """

    def __init__(self, tokens: Tokens, length: int, batch_size: int, seed: int):
        predictions = np.maximum(tokens.lengths - 1, 0)
        per_document = -(-predictions // length)
        super().__init__(tokens, length, batch_size, int(per_document.sum()))
        self._seed, self._n_targets = seed, int(predictions.sum())
        self._last_window = np.cumsum(per_document)
        self._first_window = self._last_window - per_document
        self._epoch: tuple[int, np.ndarray] | None = None

    @property
    def epoch_targets(self) -> int:
        return self._n_targets

    def windows(self, places: list[tuple[int, int]], step: int) -> Windows:
        """Return windows whose padding is no target."""
        rows = [self._window(*place) for place in places]
        ends = np.array([len(row) for row in rows])[:, None]
        padded = [np.pad(row, (0, self.length + 1 - len(row)), constant_values=PADDING)
                  for row in rows]  # fmt: skip
        is_target = np.arange(1, self.length + 1) < ends
        return Windows(np.stack(padded), is_target)

    def remarks(self) -> list[str]:
        """Say which share of the tokens read is padding."""
        share = 1 - self._n_targets / (self.n_windows * self.length)
        return [f"padding: {100 * share:.0f} % of the tokens read; reading=packed has none"]

    def _window(self, epoch: int, place: int) -> np.ndarray:
        window = int(self._shuffled(epoch)[place])
        document = int(np.searchsorted(self._last_window, window, side="right"))
        first = (window - int(self._first_window[document])) * self.length
        n_tokens = min(int(self.tokens.lengths[document]) - first, self.length + 1)
        return self.tokens.window(document, first, n_tokens)

    def _shuffled(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._epoch = epoch, drawn_order(self.n_windows, rng)
        return self._epoch[1]
