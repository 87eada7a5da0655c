"""What reaches a reader: lines on standard error, warnings, cells of CSV files.

Names of runs, values in cells, study files and messages of libraries may be somebody else's. All
of them pass `printable` (lexp.system.text) on their way, whatever form they take then.
"""

import logging
import re
import sys
import time
import traceback
import warnings
from types import TracebackType
from typing import Any

from lexp.system.secrets import masked
from lexp.system.text import printable

NUMBER = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|inf|nan)", re.IGNORECASE)
# A value so long that nobody reads what stands after it.
LONG_WORD = re.compile(r"\S{500,}")
# Beginnings that a spreadsheet takes for a formula; the last four are the full-width forms.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def line_of(text: object) -> str:
    """Return a text as one line that a terminal shows, secrets masked."""
    # Masked twice: a secret may have characters that are replaced, or line ends.
    line = masked(printable(re.sub(r"\s*\n\s*", " ", masked(str(text)))))
    return LONG_WORD.sub(lambda word: f"{word[0][:100]}...{word[0][-50:]}", line)


def say(*lines: object) -> None:
    """Print lines to standard error, all at once; without lines, nothing."""
    if lines:
        print("\n".join(map(line_of, lines)), file=sys.stderr, flush=True)


def say_loading_torch(purpose: str = "") -> None:
    """Print that torch is being loaded, which takes seconds, unless it is there already."""
    if "torch" not in sys.modules:
        say(f"lexp: loading torch{purpose}")


class Tally:
    """Count pieces of work and print now and then how many are done: `intervals 12 of 54`.

    The first line comes after a second, so work that is done sooner prints nothing.
    """

    def __init__(self, what: str, total: int, first_s: float = 1.0, every_s: float = 5.0):
        self._what, self._total, self._every_s = what, total, every_s
        self._done, self._said = 0, time.monotonic() + first_s - every_s

    def advance(self) -> None:
        """Count one more."""
        self._done += 1
        if time.monotonic() - self._said >= self._every_s:
            self._said = time.monotonic()
            say(f"lexp: {self._what} {self._done} of {self._total}")


def warn(text: object, stacklevel: int = 1) -> None:
    """Issue a UserWarning of one line. stacklevel: 1 for the caller of this function."""
    warnings.warn(line_of(text), stacklevel=stacklevel + 1)


def make_libraries_plain() -> None:
    """Have Python show warnings, log lines and tracebacks without characters that act.

    Libraries put names and characters of others in theirs, such as a glyph that a font lacks.
    """
    warnings.formatwarning = _format_warning
    logging.setLogRecordFactory(PlainRecord)
    sys.excepthook = _say_traceback


class PlainRecord(logging.LogRecord):
    """A log record whose text acts on nothing, whichever handler writes it."""

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        if self.exc_info:  # handlers take this text for the traceback
            self.exc_text = "\n".join(_traceback(self.exc_info[1]))

    def getMessage(self) -> str:
        """Return the message as one line."""
        return line_of(super().getMessage())


def _say_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    say(*_traceback(error))


def _traceback(error: BaseException | None) -> list[str]:
    """Return the lines of a traceback, each as `line_of`; those within a message are indented."""
    lines = []
    for chunk in traceback.format_exception(error) if error else []:
        first, *others = map(line_of, chunk.rstrip("\n").split("\n"))
        lines += [first, *(line if line.startswith(" ") else f"    {line}" for line in others)]
    return lines


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    return f"{line_of(f'{filename}:{lineno}: {category.__name__}: {message}')}\n"


def csv_cell(value: Any) -> Any:
    """Return a value for a CSV file: a number unchanged, a text that no spreadsheet runs."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    formula = text.lstrip().startswith(FORMULA) and not NUMBER.fullmatch(text)
    return f"'{text}" if formula else text
