"""Standard output and error that end no run: at worst a character or a line is lost."""

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from lexp.system.errors import StorageError, advice
from lexp.system.text import in_ascii, printable

PLAIN = "lexp.plain"  # the name by which Python finds `_plainly`, a handler of encoding errors


class ReaderLeft(BaseException):
    """Raised where the reader of standard output has ended, as `head` does: nobody needs more."""


class TolerantStream:
    """A stream that ignores write errors, so that a closed pipe or a full disk ends no run.

    failure: the first error that is not a closed pipe. stops: a closed pipe raises ReaderLeft, for
    commands that only print. plain: replace characters that a terminal acts on, in file names and
    values that Hydra prints.
    """

    def __init__(self, stream: Any, stops: bool = False, plain: bool = False):
        self._stream, self._stops, self._plain = stream, stops, plain
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write text; ignore an OSError."""
        if self._plain:
            text = "\n".join(map(printable, text.split("\n")))
        with self._tolerating():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush; ignore an OSError."""
        with self._tolerating():
            self._stream.flush()

    def end(self) -> None:
        """Write what is buffered; drop it where that fails, or Python would exit with 120."""
        try:
            self._stream.flush()
        except OSError as error:
            self._note(error)
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
                self._stream.flush()

    @contextlib.contextmanager
    def _tolerating(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            if self._stops:
                raise ReaderLeft from None
        except OSError as error:
            self._note(error)

    def lost(self) -> StorageError | None:
        """Return, after `end`, why output was lost; None if none was, or if its reader ended."""
        if self.failure is None:
            return None
        reason = self.failure.strerror or self.failure
        return StorageError(f"cannot write to standard output: {reason}{advice(self.failure)}")

    def _note(self, error: OSError) -> None:
        if error.errno != errno.EPIPE:
            self.failure = self.failure or error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def tolerant(stops: bool, plain: bool = False) -> Iterator[TolerantStream]:
    """Make both streams tolerant in the block; yield standard output.

    stops, plain: see TolerantStream. Where the encoding lacks a sign of lexp it is written in
    ASCII, any other character as `?`. A stream that the shell has closed (`>&-`) goes nowhere.
    """
    before = sys.stdout, sys.stderr
    out = TolerantStream(_usable(sys.stdout, 1), stops, plain)
    errors = TolerantStream(_usable(sys.stderr, 2))
    sys.stdout, sys.stderr = out, errors
    try:
        yield out
    finally:
        out.end()
        errors.end()
        sys.stdout, sys.stderr = before


def _usable(stream: Any, number: int) -> Any:
    """Return a stream that accepts any text. number: its file descriptor."""
    try:
        os.fstat(number)
    except OSError:
        # Or the next file that is opened, such as a checkpoint, would get what others print.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, number)
        if nowhere != number:
            os.close(nowhere)
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors="replace")
    if isinstance(stream, io.TextIOWrapper):
        codecs.register_error(PLAIN, _plainly)
        encoding = "ascii" if asks_for_ascii(os.environ) else stream.encoding
        stream.reconfigure(encoding=encoding, errors=PLAIN)
    return stream


def asks_for_ascii(environment: Mapping[str, str]) -> bool:
    """Return True if the user has set the locale C or POSIX, in which Python writes UTF-8.

    Python then sets LC_CTYPE=C.UTF-8 itself, so that this value says nothing beside LANG=C. Without
    any locale, as in many containers, nobody has asked.
    """
    if environment.get("PYTHONUTF8") or environment.get("PYTHONIOENCODING"):
        return False
    names = ("LC_ALL", "LC_CTYPE", "LANG")
    values = [environment.get(name, "") for name in names]
    if values[0] == "" and values[1] == "C.UTF-8":
        values[1] = ""
    return next(filter(None, values), "") in ("C", "POSIX")


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement of characters that an encoding lacks, and where to resume."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = in_ascii(error.object[error.start : error.end])
    return missing.encode("ascii", "replace").decode("ascii"), error.end
