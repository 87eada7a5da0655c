"""Locks: one process trains a run; one process at a time writes a study's tables."""

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from lexp.system.errors import Busy
from lexp.system.files import make_folder, storage


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, until the process ends at the latest.

    Busy, with the name of the holder, if another process holds it.
    """
    path = make_folder(folder) / "lock"
    with storage(path):
        file = path.open("a+", encoding="utf-8", errors="replace")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise Busy(f"{folder} is in use by {file.read() or 'another process'}") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


@contextlib.contextmanager
def one_at_a_time(study: Path) -> Iterator[None]:
    """Wait for the lock of a study and hold it: for files that all jobs write."""
    path = make_folder(study) / ".lock"
    with storage(path):
        file = path.open("a", encoding="utf-8")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(folder: Path) -> bool:
    """Return True if a process holds the lock of a run folder.

    A process on another machine is seen only if the file system shares locks.
    """
    try:
        with (folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
