"""reading=packed: documents end to end, a token that ends a text after each, cut into windows.

The usual pretraining. Nothing is left out but less than a window at the ends of an epoch.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from lexp.data.reading.base import Batches, Reading, Windows, drawn_order, smallest_type
from lexp.data.tokens import Tokens
from lexp.system.text import counted


@dataclass(frozen=True)
class Packed(Reading):
    """Windows over all documents, end to end in an order that is drawn for each epoch.

    mask: `document` keeps attention within a document and counts positions from its first token in
    the window; what follows the end of a document is then no target. None: attention crosses.
    """

    mask: str | None = None

    needs_end: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.mask not in (None, "document"):
            raise ValueError(f"mask={self.mask} (document, or null)")

    @property
    def causal_only(self) -> bool:
        return self.within_documents

    @property
    def within_documents(self) -> bool:
        return self.mask is not None

    def batches(
        self, tokens: Tokens, end: int | None, length: int, batch_size: int, seed: int
    ) -> Batches:
        """Return the windows of a run."""
        assert end is not None, "needs_end"
        return PackedBatches(self, tokens, end, length, batch_size, seed)


class Epoch(NamedTuple):
    """The order of an epoch: documents, where each ends in the stream, windows, the first's start.

    A document ends after its own end token.
    """

    number: int
    documents: np.ndarray
    stops: np.ndarray
    windows: np.ndarray
    start: int


class PackedBatches(Batches):
    """Windows of length + 1 tokens of the stream, in an order drawn for each epoch.

    A window begins with the last token of the window before, so each token is predicted once.
    """

    def __init__(
        self, reading: Packed, tokens: Tokens, end: int, length: int, batch_size: int, seed: int
    ):
        self._reading = reading
        n_documents = int(np.count_nonzero(tokens.lengths))
        n_stream = int(tokens.lengths.sum()) + n_documents
        n_windows = max(n_stream - 1, 0) // length
        super().__init__(tokens, length, batch_size, n_windows)
        self._end, self._seed = end, seed
        self._slack = n_stream - 1 - n_windows * length
        self._epoch: Epoch | None = None

    def windows(self, places: list[tuple[int, int]], step: int) -> Windows:
        """Return windows; every token is a target unless attention is kept within documents."""
        rows = [self._window(*place) for place in places]
        tokens = np.stack([row for row, _ in rows])
        if not self._reading.within_documents:
            return Windows(tokens)
        starts = np.stack([of_row for _, of_row in rows])
        # No token of a document says how the next one begins.
        return Windows(tokens, ~starts[:, 1:], starts[:, :-1])

    def remarks(self) -> list[str]:
        """Say how many documents hold the token that stands between documents."""
        n = self.tokens.n_with_end
        if n is None:
            places = self.tokens.places(lambda ids: ids == self._end)
            n = len(np.unique(np.searchsorted(self.tokens.starts, places, side="right")))
        if not n:
            return []
        return [
            f"{counted(n, 'document')} of dataset.train {'holds' if n == 1 else 'hold'} token "
            f"{self._end}, which reading=packed puts between documents: such a text seems to end "
            "there"
        ]

    def _window(self, number: int, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of a window, and which of them begin a document."""
        epoch = self._order(number)
        window: np.ndarray = np.empty(self.length + 1, dtype=np.int64)
        starts: np.ndarray = np.zeros(self.length + 1, dtype=bool)
        first = epoch.start + int(epoch.windows[place]) * self.length
        at = int(np.searchsorted(epoch.stops, first, side="right"))
        filled = 0
        while filled < len(window):
            document = int(epoch.documents[at])
            n_tokens = int(self.tokens.lengths[document])
            within = first + filled - (int(epoch.stops[at]) - n_tokens - 1)
            starts[filled] = within == 0
            n_taken = min(n_tokens - within, len(window) - filled)
            window[filled : filled + n_taken] = self.tokens.window(document, within, n_taken)
            filled += n_taken
            if filled < len(window):
                window[filled] = self._end
                filled, at = filled + 1, at + 1
        return window, starts

    def _order(self, number: int) -> Epoch:
        if self._epoch is None or self._epoch.number != number:
            rng = np.random.default_rng([self._seed, number])
            documents = self._in_order(rng)
            stops = np.cumsum(self.tokens.lengths[documents] + 1)
            windows = drawn_order(self.n_windows, rng)
            start = int(rng.integers(self._slack + 1))
            self._epoch = Epoch(number, documents, stops, windows, start)
        return self._epoch

    def _in_order(self, rng: np.random.Generator) -> np.ndarray:
        """Return the documents that are not empty, in a drawn order."""
        used = np.flatnonzero(self.tokens.lengths)
        used = used.astype(smallest_type(len(self.tokens.lengths)))
        return used[drawn_order(len(used), rng)]
