"""Progress of reading and tokenising texts, which takes minutes to days for large ones."""

import sys
import time
from collections.abc import Iterable, Iterator

from lexp.data.corpus import Document
from lexp.system.output import say
from lexp.system.ranks import place

# Texts that are done in about a second; their work is announced by nothing.
QUICK_BYTES = 2_000_000
FIRST_AFTER_S, EVERY_S = 2.0, 5.0
# A bar is drawn again so often.
REDRAWN_S, BAR_WIDTH = 0.5, 24


class TextProgress:
    """Shows that work on texts begins, and how long the rest takes; on rank 0 only.

    On a terminal that is a bar, elsewhere a line now and then. what: the work, such as
    `tokenising`. n_bytes: of the texts, None if that is not known before. max_tokens: where each
    split ends, if not before; None: at its end. It is a total where n_bytes is not known.
    """

    def __init__(self, what: str, n_bytes: int | None, max_tokens: int | None = None):
        self._what, self._n_bytes, self._max_tokens = what, n_bytes, max_tokens
        self._split, self._in_split = "", 0
        self._done = self._before = 0
        self._tokens = self._tokens_before = 0
        self._has_bar = False
        self._begin = time.monotonic()
        self._next_line = self._begin + FIRST_AFTER_S
        if n_bytes and n_bytes > QUICK_BYTES:
            self._say(f"{n_bytes / 1e6:.0f} MB of text")

    def follow(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Yield documents; each counts as done when the next one is asked for."""
        for document in documents:
            yield document
            self.advance(len(document.text.encode()))
        self.end()

    def begin_at(self, n_bytes: int, n_tokens: int) -> None:
        """Count what an earlier start has done."""
        self._done = self._before = n_bytes
        self._tokens = self._tokens_before = n_tokens

    def begin_split(self, name: str, n_tokens: int) -> None:
        """Count the tokens of a split, of which an earlier start has made n_tokens."""
        self._split, self._in_split = name, n_tokens

    def advance(self, n_bytes: int, n_tokens: int = 0) -> None:
        """Count more text as done, and the tokens that it has become."""
        self._done += n_bytes
        self._tokens += n_tokens
        self._in_split += n_tokens
        if time.monotonic() >= self._next_line:
            is_seen = sys.stderr.isatty()
            self._next_line = time.monotonic() + (REDRAWN_S if is_seen else EVERY_S)
            if is_seen:
                self._draw(f"{self._bar()}{self._how_far()}")
            else:
                self._say(self._how_far())

    def end(self) -> None:
        """Leave the bar, if there is one."""
        if self._has_bar:
            self._draw(f"{self._bar()}{self._how_far()}", end="\n")

    def _bar(self) -> str:
        done, total = self._done, self._n_bytes
        if not total and self._max_tokens:
            done, total = self._in_split, self._max_tokens
        if not total:
            return ""
        full = min(BAR_WIDTH, BAR_WIDTH * done // total)
        return f"[{'=' * full}{' ' * (BAR_WIDTH - full)}] "

    def _how_far(self) -> str:
        done, rate = f"{self._done / 1e6:.0f}", ""
        elapsed_s = max(time.monotonic() - self._begin, 1e-9)
        tokens_a_second = (self._tokens - self._tokens_before) / elapsed_s
        if self._tokens:
            rate = f", {tokens_a_second / 1000:.0f}k tokens/s"
        if self._n_bytes is None and self._max_tokens:
            left = max(0, self._max_tokens - self._in_split)
            counted = f"{self._in_split / 1e6:.0f} of {self._max_tokens / 1e6:.0f}M tokens"
            rest = f", {_duration(left / tokens_a_second)} left" if tokens_a_second else ""
            return f"{self._split}: {counted}{rate}{rest}"
        if self._n_bytes is None or self._done >= self._n_bytes:
            return f"{done} MB done{rate}"
        left_s = elapsed_s * (self._n_bytes - self._done) / max(1, self._done - self._before)
        return f"{done} of {self._n_bytes / 1e6:.0f} MB{rate}, {_duration(left_s)} left"

    def _draw(self, text: str, end: str = "") -> None:
        """Write the line of a terminal anew."""
        if place().rank == 0:
            self._has_bar = True
            sys.stderr.write(f"\r\x1b[Klexp: {self._what}: {text}{end}")
            sys.stderr.flush()

    def _say(self, text: str) -> None:
        if place().rank == 0:
            say(f"lexp: {self._what}: {text}")


def _duration(seconds: float) -> str:
    """Return seconds as `45 s`, `12 min` or `3.4 h`."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
