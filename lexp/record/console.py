"""What a person sees while it runs: a live bar on a terminal, a line now and then in a log file."""

import sys
import time
from types import TracebackType

from rich.console import Console as Rich
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

# A log file gets a progress line this often; a terminal has the bar instead.
LOG_EVERY_S = 15.0


class Console:
    """Progress of one piece of work measured in tokens: what, how far, how fast, how long still.

    title: said in front of every line. total: tokens to do. done: tokens done before, by an earlier
    start. following: pieces of work of the same size that come after this one. Use as a context
    manager.
    """

    def __init__(self, title: str, total: int, done: int = 0, following: int = 0):
        self._rich = Rich(stderr=True, highlight=False)
        self._title, self._total, self._done = title, total, done
        self._first, self._start, self._last_line = done, time.monotonic(), time.monotonic()
        self._note = ""
        self._following = following
        self._progress: Progress | None = None
        if self._rich.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                _Rate(self),
                TextColumn("{task.fields[note]}"),
                console=self._rich,
                refresh_per_second=4,
            )
            self._task = self._progress.add_task(
                escape(title), total=total, completed=done, note=""
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
        """`n_tokens` more are done; `note` is shown beside the bar from now on."""
        self._done += n_tokens
        self._note = self._note if note is None else note
        if self._progress:
            self._progress.update(self._task, completed=self._done, note=escape(self._note))
        elif time.monotonic() - self._last_line >= LOG_EVERY_S or self._done >= self._total:
            self._last_line = time.monotonic()
            share = self._done / max(1, self._total)
            parts = [f"{self._title} {share:4.0%}", self.rate(), self._note]
            print("  ".join(part for part in parts if part), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._progress:
            self._progress.console.print(escape(text))
        else:
            print(text, file=sys.stderr, flush=True)

    def rate(self) -> str:
        """Tokens per second since the start, and the time left at that rate, here and in all."""
        elapsed = time.monotonic() - self._start
        if self._done == self._first or elapsed <= 0:
            return ""
        per_s = (self._done - self._first) / elapsed
        left_s = max(0, self._total - self._done) / per_s
        ending = f"{duration(left_s)} left" if left_s else f"took {duration(elapsed)}"
        if self._following:
            ending += f" (all: {duration(left_s + self._following * self._total / per_s)} left)"
        return f"{per_s / 1000:.1f}k tokens/s, {ending}"


class _Rate(ProgressColumn):
    def __init__(self, owner: Console):
        super().__init__()
        self._owner = owner

    def render(self, task: Task) -> Text:
        return Text(self._owner.rate(), style="cyan")


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3 min 05 s, 2 h 10 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
