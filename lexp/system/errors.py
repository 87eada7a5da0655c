"""Errors that a user can act on, each with its exit code for schedulers and sweeps.

Each is shown as one line without a traceback, so its message names what was given, where, and what
is allowed. Any other exception is a defect of lexp and keeps its traceback.
"""

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
    """The output folder cannot be written."""

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
