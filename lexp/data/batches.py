"""Training batches: a pure function of (seed, step), so resuming needs the step alone."""

import numpy as np
import torch
from torch import Tensor

from lexp.data.store import Tokens
from lexp.system.errors import DataError
from lexp.system.text import counted


class Batches:
    """Windows of train_len + 1 tokens, shuffled again in each epoch.

    Windows never cross documents. An epoch cuts each document into as many windows as fit, from a
    start that is drawn for the epoch, and predicts each token at most once. Documents shorter than
    a window are left out (`n_left_out_tokens`).
    """

    def __init__(self, tokens: Tokens, train_len: int, batch_size: int, seed: int):
        predictions = np.maximum(tokens.lengths - 1, 0)
        per_document = predictions // train_len
        self.n_windows = int(per_document.sum())
        self.n_left_out_tokens = int(tokens.lengths[per_document == 0].sum())
        if self.n_windows < batch_size:
            longest = int(tokens.lengths.max(initial=0))
            raise DataError(
                f"the train split gives {counted(self.n_windows, 'window')} of "
                f"train_len={train_len} tokens, one batch needs {batch_size} "
                f"(longest document: {longest} tokens)"
            )
        self._tokens = tokens
        self.train_len = train_len
        self._batch_size, self._seed = batch_size, seed
        self._slack = predictions - per_document * train_len
        self._first_window = np.cumsum(per_document) - per_document
        self._last_window = np.cumsum(per_document)
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    def batch(self, step: int) -> Tensor:
        """Return the token ids int64 [batch_size, train_len + 1] of a step, counted from 0."""
        first = step * self._batch_size
        rows = [self._window(index) for index in range(first, first + self._batch_size)]
        return torch.from_numpy(np.stack(rows))

    def _window(self, index: int) -> np.ndarray:
        epoch, place = divmod(index, self.n_windows)
        order, starts = self._shuffled(epoch)
        window = order[place]
        document = int(np.searchsorted(self._last_window, window, side="right"))
        within = int(window - self._first_window[document])
        first = int(starts[document]) + within * self.train_len
        return self._tokens.window(document, first, self.train_len + 1)

    def _shuffled(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._epoch = epoch, rng.permutation(self.n_windows), rng.integers(self._slack + 1)
        return self._epoch[1], self._epoch[2]
