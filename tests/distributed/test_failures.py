"""What a rank publishes of its failure: the same exit code on all ranks, whatever failed."""

import errno

import pytest

from lexp.distributed.failure_monitor import failure_of
from lexp.system.errors import DataError, LexpError


class Own(LexpError):
    """An error of a user's own module."""

    exit_code = 3


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (DataError("no texts"), 3, "no texts"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 5, "/x/y: No space left"),
        (OSError(errno.EMFILE, "Too many open files"), 5, "ulimit -n"),
        (MemoryError(), 7, "out of memory"),
        (RuntimeError("[enforce fail] can't allocate memory"), 7, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Own("mine"), 3, "mine"),
        (ValueError("a defect"), 1, "ValueError: a defect"),
        (RuntimeError("/gloo/transport: closed"), 10, "cannot be reached"),
    ],
)
def test_all_ranks_end_with_the_code_of_the_first_failure(error, code, words):
    failure = failure_of(1, error)
    for rank in (0, 1):
        shown = failure.error(rank)
        assert shown.exit_code == code and words in str(shown)
        assert shown.reported == (rank != 1)
