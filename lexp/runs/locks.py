"""Locks: one process trains a run; one process at a time writes a study's tables.

A file system may have no locks, such as NFS without its lock daemon. Two processes could then write
one run, so every command that locks refuses it, before any work.
"""

import contextlib
import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lexp.system.errors import Busy, StorageError, advice
from lexp.system.files import make_folder, open_to_append
from lexp.system.reading import open_own

# What flock says where another process holds the lock, and where there are no locks.
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, until the process ends at the latest.

    Busy, with the name of the holder, if another process holds it.
    """
    path = make_folder(folder) / "lock"
    with open_to_append(path) as file:
        if not _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, folder):
            file.seek(0)
            holder = file.read().decode(errors="replace") or "another process"
            raise Busy(f"{folder} is in use by {holder}")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}".encode())
        file.flush()
        yield


@contextlib.contextmanager
def one_at_a_time(study: Path) -> Iterator[None]:
    """Wait for the lock of a study and hold it: for files that all jobs write."""
    path = make_folder(study) / ".lock"
    with open_to_append(path) as file:
        _flock(file, fcntl.LOCK_EX, study)
        yield


def refuse_without_locks(study: Path) -> None:
    """Raise StorageError, before any work, if the file system of a study has no locks.

    A study that does not exist is left for others to refuse.
    """
    if study.is_dir():
        with one_at_a_time(study):
            pass


def is_held(folder: Path) -> bool:
    """Return True if a process holds the lock of a run folder; CheckpointError if it is a link.

    A process on another machine is seen only if the file system shares locks.
    """
    try:
        with open_own(folder / "lock") as file:
            return not _flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB, folder)
    except (FileNotFoundError, StorageError):
        return False
    except OSError:
        return True


def _flock(file: IO, how: int, folder: Path) -> bool:
    """Lock an open file; return False if another process holds it.

    StorageError, with what to do, if it cannot be locked at all.
    """
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno in HELD:
            return False
        reason = error.strerror or error
        if error.errno in NO_LOCKS:
            raise StorageError(
                f"{folder} is on a file system without locks ({reason}), where two processes could "
                "write one run; choose outputs= on another one, or mount it with locks"
            ) from None
        raise StorageError(f"cannot lock {folder}: {reason}{advice(error)}") from None
    return True
