"""Who works in a folder: one process trains a run, one at a time writes a study's tables."""

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
    """Hold a run folder; Busy names the process that already does. Freed when the holder ends."""
    path = make_folder(folder) / "lock"
    with storage(path):
        file = path.open("a+")
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
    """Wait until no other process is within this for the same study: for files all jobs write."""
    path = make_folder(study) / ".lock"
    with storage(path):
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(folder: Path) -> bool:
    """Whether a process works in a run folder; of another machine only if its locks reach here."""
    try:
        with (folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
