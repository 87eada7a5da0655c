"""The folder in which one process writes a store, before it has the store's name.

One process writes a store while others wait for it. Its lock says whether it still lives: another
one takes over the folder of a process that was killed. Where there are no locks, or where those of
other machines are not seen, each writes in a folder of its own, and the first to end gives the
store.
"""

import contextlib
import errno
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
from lexp.system.output import say
from lexp.system.reading import own_file_exists

LOCK = "lock"
# Stores, vocabularies and findings about texts, before they have their names.
TEMPORARY = re.compile(r"\.(.+-\d+(\.json)?|texts-.+\.json)\.[a-z0-9_]{8}|\..+-\d+\.lock")
# A process that tokenises writes continuously: after a day without a write it was killed.
LEFT_AFTER_S = 86400
# Of another machine only the times of writing are known for sure: not all file systems share locks.
SILENT_AFTER_S = 120
# A process that waits looks so often whether it still has to.
LOOK_EVERY_S = 0.2
# What flock says where another process holds the lock.
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def writing_alone(folder: Path) -> Iterator[None]:
    """Wait while another process writes a store, and let others wait meanwhile.

    folder: the store's. Without a lock if there are none, or if the one that holds it is on another
    machine and has written nothing for SILENT_AFTER_S: that machine may be lost.
    """
    path = folder.parent / f".{folder.name}.{LOCK}"
    with contextlib.ExitStack() as held:
        is_ours = _wait(path, folder, held)
        try:
            yield
        finally:
            if is_ours:
                with contextlib.suppress(LexpError):
                    remove_file(path)


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


def _wait(path: Path, folder: Path, held: contextlib.ExitStack) -> bool:
    """Return True with the lock held, False where there is no need to wait any longer for it."""
    has_said = False
    while not folder.is_dir():
        with contextlib.ExitStack() as files:
            try:
                lock = files.enter_context(open_to_append(path))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Who had it has deleted the file: another process may have a new one.
                if os.fstat(lock.fileno()).st_ino != path.stat().st_ino:
                    continue
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {platform.node()}".encode())
                lock.flush()
                held.push(files.pop_all())
                return True
            except FileNotFoundError:
                continue
            except LexpError:
                return False  # writing the store says why
            except OSError as error:
                if error.errno not in HELD:
                    return False
                lock.seek(0)
                holder = lock.read().decode(errors="replace") or "another process"
        if not holder.endswith(f" on {platform.node()}") and _is_silent(folder):
            return False
        if not has_said:
            say(f"lexp: tokenising: waiting for {holder}, which tokenises the same texts")
            has_said = True
        time.sleep(LOOK_EVERY_S)
    return False


def _is_silent(folder: Path) -> bool:
    """Return whether nobody has written anything for a store for SILENT_AFTER_S."""
    with contextlib.suppress(OSError, ValueError):
        newest = max(_last_write(path) for path in folder.parent.glob(f".{folder.name}.*"))
        return time.time() - newest > SILENT_AFTER_S
    return False


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
