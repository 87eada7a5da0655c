"""The folder in which one process writes a store, before it has the store's name.

Its lock says whether its process still lives. Another process takes over the folder of one that was
killed; while it lives, others write in folders of their own, and the first to end gives the store.
"""

import contextlib
import fcntl
import os
import platform
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lexp.data.shard_files import PROGRESS, StoreRecord, read_record
from lexp.system.errors import LexpError
from lexp.system.files import make_new_folder, open_to_append, remove_file, remove_folder
from lexp.system.reading import own_file_exists

LOCK = "lock"
# Stores, vocabularies and findings about texts, before they have their names.
TEMPORARY = re.compile(r"\.(.+-\d+(\.json)?|texts-.+\.json)\.[a-z0-9_]{8}")
# A process that tokenises writes continuously: after a day without a write it was killed.
LEFT_AFTER_S = 86400
# Of another machine only the times of writing are known for sure: not all file systems share locks.
SILENT_AFTER_S = 120


@contextlib.contextmanager
def work_folder(folder: Path) -> Iterator[tuple[Path, StoreRecord]]:
    """Yield a folder to write a store in, and how far a killed process came with it.

    folder: the store's, to which the other is to be renamed. Unless it is, it is left for the next
    process if a shard is whole, and deleted otherwise. StorageError if none can be made.
    """
    with contextlib.ExitStack() as held:
        taken = _abandoned(folder, held)
        remove_leftovers(folder.parent)
        if taken is None:
            taken = make_new_folder(folder), StoreRecord.empty()
            lock = held.enter_context(open_to_append(taken[0] / LOCK))
            _try_lock(lock)  # where there are no locks, nobody takes the folder over
            _sign(lock)
        try:
            yield taken
        finally:
            if not own_file_exists(taken[0] / PROGRESS):
                remove_folder(taken[0])


def remove_leftovers(cache: Path) -> None:
    """Delete what processes left that were killed while tokenising or training a vocabulary."""
    for path in cache.glob(".*"):
        if not TEMPORARY.fullmatch(path.name):
            continue
        # By age, not by a lock: on cluster file systems other machines may not see locks.
        with contextlib.suppress(OSError):
            if time.time() - _last_write(path) > LEFT_AFTER_S:
                (remove_folder if stat.S_ISDIR(path.lstat().st_mode) else remove_file)(path)


def _abandoned(folder: Path, held: contextlib.ExitStack) -> tuple[Path, StoreRecord] | None:
    """Return the folder of a killed process that came furthest, locked, and its record."""
    records = [(path, read_record(path)) for path in folder.parent.glob(f".{folder.name}.*")]
    left = [(record.n_documents, path) for path, record in records if record is not None]
    for _, path in sorted(left, reverse=True):
        with contextlib.suppress(OSError, LexpError), contextlib.ExitStack() as files:
            lock = files.enter_context(open_to_append(path / LOCK))
            lock.seek(0)
            is_near = lock.read().decode(errors="replace") == platform.node()
            if not (is_near or time.time() - _last_write(path) > SILENT_AFTER_S):
                continue
            # Its process may have gone on, or have renamed the folder, until the lock was ours.
            if not _try_lock(lock):
                continue
            record = read_record(path)
            if record and os.fstat(lock.fileno()).st_ino == (path / LOCK).stat().st_ino:
                _sign(lock)
                held.push(files.pop_all())
                return path, record
    return None


def _last_write(path: Path) -> float:
    files = [path, *(path.iterdir() if stat.S_ISDIR(path.lstat().st_mode) else ())]
    return max(file.lstat().st_mtime for file in files)


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sign(lock: BinaryIO) -> None:
    lock.truncate(0)
    lock.write(platform.node().encode())
    lock.flush()
