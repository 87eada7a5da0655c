"""Progress of a piece of work: a live bar on a terminal, now and then a line in a log file."""

import math
import time
from collections.abc import Callable
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console as Rich
from rich.markup import escape
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table as RichTable
from rich.text import Text

from lexp.system.output import line_of, say

# A log file gets its first line with the first step, then one this often.
LOG_EVERY_S = 15.0
# Columns that a bar takes at most, and at least where there is one.
WIDEST_BAR, NARROWEST_BAR = 24, 6
# Characters that a note keeps where a bar would leave it fewer.
SHORTEST_NOTE = 16


class Console:
    """Progress of work that is measured in tokens: share done, time left, a note, and the rate.

    title: shown before each line. total: tokens to process. done: tokens that an earlier start has
    processed. following: how many pieces of work of the same size come afterwards. efficiency:
    returns what else to show of a rate in tokens per second. unit: of the amounts, if not tokens.
    Use as a context manager.
    """

    def __init__(
        self,
        title: str,
        total: int,
        done: int = 0,
        following: int = 0,
        efficiency: Callable[[float], list[str]] | None = None,
        unit: str = "tokens",
    ):
        self._rich = Rich(stderr=True, highlight=False)
        self._title, self._total, self._done = title, total, done
        self._first, self._start, self._last_line = done, time.monotonic(), -math.inf
        self._note = ""
        # How many of the further words there is room for, by columns of the terminal.
        self._n_further: dict[int, int] = {}
        self._following = following
        self._efficiency, self._unit = efficiency, unit
        self._progress: Progress | None = None
        if self._rich.is_terminal:
            self._progress = Progress(_Line(self), console=self._rich, refresh_per_second=4)
            self._task = self._progress.add_task("", total=total, completed=done)

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
            self._progress.update(self._task, completed=self._done)
        elif time.monotonic() - self._last_line >= LOG_EVERY_S or self._done >= self._total:
            self._last_line = time.monotonic()
            needed, further = self.words()
            say("  ".join([f"{self._title} {needed[0]}", *needed[1:], *further]))

    def words(self) -> tuple[list[str], list[str]]:
        """Return what a line shows behind the title, and what it shows where there is room."""
        share = f"{self._done / max(1, self._total):4.0%}"
        needed = [share, *filter(None, (self.time_left(), line_of(self._note)))]
        per_s = self._tokens_per_s()
        further = self._efficiency(per_s) if self._efficiency and per_s else []
        return needed, [*filter(None, [self.rate()]), *further]

    def bar(self, width: int) -> RichTable:
        """Return the line of a terminal of `width` columns; what does not fit is left out.

        A long note is cut in its middle, and what was left out once stays out: a line whose numbers
        have a digit less for a moment would flicker.
        """
        title = line_of(self._title)
        needed, further = self.words()
        room = width - cell_len(f"{title} ")
        if self._note:
            others = cell_len(" ".join(needed[:-1])) + 1 + NARROWEST_BAR + 1
            needed[-1] = cut(needed[-1], max(room - others, SHORTEST_NOTE))
        text = " ".join(needed)
        for n, word in enumerate(further[: self._n_further.get(width)]):
            if cell_len(f"{text} {word}") + NARROWEST_BAR + 1 > room:
                self._n_further[width] = n
                break
            text = f"{text} {word}"
        if cell_len(text) > room:  # rather the time left than the title
            title, room = "", width
        line = RichTable.grid(padding=(0, 1, 0, 0), pad_edge=False)
        bar_width = min(WIDEST_BAR, room - cell_len(text) - 1)
        cells: list[Text | ProgressBar] = [Text(title)] if title else []
        if bar_width >= NARROWEST_BAR:
            cells.append(ProgressBar(self._total, self._done, width=bar_width))
        cells.append(Text(text, style="cyan", no_wrap=True, overflow="crop"))
        line.add_row(*cells)
        return line

    def say(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        if self._progress:
            self._progress.console.print(escape(line_of(text)))
        else:
            say(text)

    def width(self) -> int:
        """Return the columns of the terminal."""
        return self._rich.width

    def rate(self) -> str:
        """Return the tokens per second since the start; "" before the first step."""
        per_s = self._tokens_per_s()
        return f"{per_s / 1000:.1f}k {self._unit}/s" if per_s else ""

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


class _Line(ProgressColumn):
    """The whole line of a console, as wide as its terminal is at each refresh."""

    def __init__(self, console: Console):
        super().__init__()
        self._console = console

    def render(self, task: Task) -> RichTable:
        return self._console.bar(self._console.width())


def cut(text: str, width: int) -> str:
    """Return a text of at most `width` characters; of a longer one the middle is left out."""
    if len(text) <= width:
        return text
    n_end = (width - 3) // 2
    return f"{text[: width - 3 - n_end]}...{text[len(text) - n_end :]}"


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
