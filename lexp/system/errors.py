"""Errors that a user can act on, each with its exit code for schedulers and sweeps.

Each is shown as one line without a traceback, so its message names what was given, where, and what
is allowed. `actionable` makes one of what the machine lacks (space, memory, open files). Any other
exception is a defect of lexp and keeps its traceback.
"""

import errno
import os
import sys
import traceback

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: state saved, please start the same command again
EXIT_INTERRUPTED = 130
EXIT_STALLED = 11  # no step for stall_min minutes: ended by the heartbeat, not by an exception


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class LexpError(Exception):
    """A problem the user can act on."""

    exit_code = 1
    # Whether it was already shown, in one job of a sweep or by another rank. None: not decided.
    reported: bool | None = None


class ConfigError(LexpError):
    """A bad config value, override or combination."""

    exit_code = 2


class NotDefined(ConfigError):
    """A combination without a meaning; evaluations store it as a result with its reason."""


class DataError(LexpError):
    """Missing, unreadable, empty or too short data."""

    exit_code = 3


class CheckpointError(LexpError):
    """A checkpoint that is damaged, missing, or belongs to another configuration."""

    exit_code = 4


class StorageError(LexpError):
    """A file or folder that cannot be read or written, for want of space, rights or else."""

    exit_code = 5


class Diverged(LexpError):
    """A non-finite loss or gradient in training."""

    exit_code = 6


class OutOfMemory(LexpError):
    """Training does not fit in memory."""

    exit_code = 7


class Busy(LexpError):
    """Another process works in the same run folder."""

    exit_code = 8


class Incomplete(LexpError):
    """An evaluation of which some results failed; the finished ones are kept."""

    exit_code = 9


class RankLost(LexpError):
    """One of several processes that train a model was killed, or cannot be reached."""

    exit_code = 10


class JobFailed(LexpError):
    """A job of a sweep that failed in a process of its own: with its exit code, or 10 if killed."""

    exit_code = 10

    def __init__(self, message: str, exit_code: int = 10):
        super().__init__(message)
        self.exit_code = exit_code


# What to do about an error of the system, by its number.
ADVICE = {
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
    errno.EROFS: "choose another folder",
    errno.ENOSPC: "free space, then repeat the command",
    errno.EDQUOT: "free space, then repeat the command",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EIO: "check the disk or the network file system",
    errno.ESTALE: "check the network file system, then repeat the command",
    errno.EMFILE: "raise the limit of open files (ulimit -n 1024)",
    errno.ENFILE: "close other programs: the machine's limit of open files is reached",
    errno.EAGAIN: "close other programs, or raise the limit of processes (ulimit -u)",
    errno.ENAMETOOLONG: "use shorter names",
    errno.ELOOP: "remove the links that point to each other",
    errno.ENOTEMPTY: "another process has put files there; choose another folder",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
}


def advice(error: OSError) -> str:
    """Return what to do about an error of the system, after a semicolon; "" if nothing is known."""
    known = ADVICE.get(error.errno or 0)
    return f"; {known}" if known else ""


def refuse_shortage(path: object, error: BaseException) -> None:
    """Raise StorageError for a file that cannot be read now: it is not damaged, nor to be deleted.

    Other errors are left to the caller.
    """
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ESTALE):
        reason = f"{error.strerror or error}{advice(error)}"
        raise StorageError(f"cannot read {path}: {reason}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an exception means that memory ran out, on any device."""
    torch = sys.modules.get("torch")  # must not be imported here: help must not wait for it
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # "calculation overflowed": torch was asked for more bytes than it can count.
    signs = ("can't allocate memory", "calculation overflowed")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def actionable(error: BaseException) -> LexpError | None:
    """Return what the machine lacks as an error that a user can act on; None for other errors.

    Where a file or the kind of work is known, an error is raised as a LexpError there; this is for
    what can fail anywhere.
    """
    if isinstance(error, LexpError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(
            f"out of memory ({first_line(error)}) in {_place(error)}; "
            "close other programs, or use shorter lengths, a smaller batch or fewer workers"
        )
    if isinstance(error, OSError):
        what = error.filename if error.filename is not None else _place(error)
        reason = error.strerror or first_line(error)
        return StorageError(f"{os.fsdecode(what)}: {reason}{advice(error)}")
    return None


def _place(error: BaseException) -> str:
    """Return the innermost place in lexp that an exception has passed: `lexp/data/text.py:96`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}lexp{os.sep}" in frame.filename] or frames
    if not own:
        return "lexp"
    *_, folder, name = own[-1].filename.split(os.sep)
    return f"{folder}/{name}, line {own[-1].lineno}"
