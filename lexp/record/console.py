"""Progress of a piece of work: a live bar on a terminal, now and then a line in a log file."""

import math
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console as Rich
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from lexp.system.output import line_of, say

# A log file gets its first line with the first step, then one this often.
LOG_EVERY_S = 15.0
# Narrower terminals do not show the rate, so that the time left fits.
WIDE = 100


class Console:
    """Progress of work that is measured in tokens: share done, time left, a note, and the rate.

    title: shown before each line. total: tokens to process. done: tokens that an earlier start has
    processed. following: how many pieces of work of the same size come afterwards. Use as a context
    manager.
    """

    def __init__(self, title: str, total: int, done: int = 0, following: int = 0):
        self._rich = Rich(stderr=True, highlight=False)
        self._title, self._total, self._done = title, total, done
        self._first, self._start, self._last_line = done, time.monotonic(), -math.inf
        self._note = ""
        self._following = following
        self._progress: Progress | None = None
        if self._rich.is_terminal:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(bar_width=None, table_column=Column(max_width=24)),
                TextColumn("{task.percentage:>3.0f}%"),
                _Words(self.time_left),
                TextColumn("{task.fields[note]}"),
            ]
            if self._rich.width >= WIDE:
                columns.append(_Words(self.rate))
            self._progress = Progress(*columns, console=self._rich, refresh_per_second=4)
            self._task = self._progress.add_task(
                escape(line_of(title)), total=total, completed=done, note=""
            )

    def __enter__(self) -> "Console":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress:
            self._progress.stop()

    def advance(self, n_tokens: int, note: str | None = None) -> None:
        """Count `n_tokens` more tokens as processed. note: shown from now on, if given."""
        self._done += n_tokens
        self._note = self._note if note is None else note
        if self._progress:
            self._progress.update(
                self._task, completed=self._done, note=escape(line_of(self._note))
            )
        elif time.monotonic() - self._last_line >= LOG_EVERY_S or self._done >= self._total:
            self._last_line = time.monotonic()
            share = self._done / max(1, self._total)
            parts = [f"{self._title} {share:4.0%}", self.time_left(), self._note, self.rate()]
            say("  ".join(part for part in parts if part))

    def say(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        if self._progress:
            self._progress.console.print(escape(line_of(text)))
        else:
            say(text)

    def rate(self) -> str:
        """Return the tokens per second since the start; "" before the first step."""
        per_s = self._tokens_per_s()
        return f"{per_s / 1000:.1f}k tokens/s" if per_s else ""

    def time_left(self) -> str:
        """Return the time left at the present rate, here and for all runs; "" before any step.

        The time for all runs assumes that the work that follows takes as long as this does.
        """
        per_s = self._tokens_per_s()
        if not per_s:
            return ""
        here_s = max(0, self._total - self._done) / per_s
        total_s = here_s + self._following * self._total / per_s
        if not here_s:
            took = f"took {clock(time.monotonic() - self._start)}"
            return (
                f"{took}, about {clock(total_s)} left for the other runs"
                if self._following
                else took
            )
        if not self._following:
            return f"{clock(here_s)} left"
        return f"{clock(here_s)} left, about {clock(total_s)} for all runs"

    def _tokens_per_s(self) -> float:
        elapsed_s = time.monotonic() - self._start
        return (self._done - self._first) / elapsed_s if elapsed_s > 0 else 0.0


class _Words(ProgressColumn):
    """A column that shows what a function returns at each refresh."""

    def __init__(self, words: Callable[[], str]):
        super().__init__(table_column=Column(no_wrap=True))
        self._words = words

    def render(self, task: Task) -> Text:
        return Text(self._words(), style="cyan")


def clock(seconds: float) -> str:
    """Return seconds as a clock shows them: 0:45, 3:05, 2:10:00."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def duration(seconds: float) -> str:
    """Return seconds in words: 45 s, 3 min 05 s, 2 h 10 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
