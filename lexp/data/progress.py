"""Progress of reading and tokenising texts, which takes minutes for large ones."""

import time
from collections.abc import Iterable, Iterator

from lexp.data.corpus import Document
from lexp.system.output import say
from lexp.system.ranks import place

# Texts that are done in about a second; their work is announced by nothing.
QUICK_BYTES = 2_000_000
FIRST_AFTER_S, EVERY_S = 2.0, 5.0


class TextProgress:
    """Prints that work on texts begins, and now and then how long the rest takes; on rank 0 only.

    what: the work, such as `tokenising`. n_bytes: of the texts, None if that is not known before.
    """

    def __init__(self, what: str, n_bytes: int | None):
        self._what, self._n_bytes, self._done = what, n_bytes, 0
        self._begin = time.monotonic()
        self._next_line = self._begin + FIRST_AFTER_S
        if n_bytes and n_bytes > QUICK_BYTES:
            self._say(f"{n_bytes / 1e6:.0f} MB of text")

    def follow(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Yield documents; each counts as done when the next one is asked for."""
        for document in documents:
            yield document
            self._done += len(document.text.encode())
            if time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + EVERY_S
                self._say(self._how_far())

    def _how_far(self) -> str:
        done = f"{self._done / 1e6:.0f}"
        if self._n_bytes is None or self._done >= self._n_bytes:
            return f"{done} MB done"
        elapsed_s = time.monotonic() - self._begin
        left_s = elapsed_s * (self._n_bytes - self._done) / max(1, self._done)
        return f"{done} of {self._n_bytes / 1e6:.0f} MB, {left_s:.0f} s left"

    def _say(self, text: str) -> None:
        if place().rank == 0:
            say(f"lexp: {self._what}: {text}")
