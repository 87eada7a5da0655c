"""What a process asks of the file system, call by call, and what a test does at one of them.

Python announces its calls itself (sys.audit), so that none is missed; fsync it does not announce,
nor what safetensors' own code does: these two are wrapped. A hook cannot be removed: forked
children only.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from lexp.runs import checkpoint
from lexp.training import loop

Act = Callable[[str, tuple[Any, ...]], None]
GROUPS = ("open", "os.", "shutil.", "tempfile.")
NOT_FILES = ("os.kill", "os.putenv", "os.unsetenv", "os.fork", "os.exec", "os.posix_spawn")


def watch(act: Act) -> None:
    """Call `act(name, arguments)` before every call of this process from now on.

    One at a time: a call of another thread (the heartbeat's) waits, and is not taken for one that
    `act` makes itself.
    """
    busy, turn = False, threading.RLock()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if not event.startswith(GROUPS) or event in NOT_FILES:
            return
        if event == "open" and arguments[0] == "/dev/null":
            return
        with turn:
            if busy:
                return
            busy = True
            try:
                act(event, arguments)
            finally:
                busy = False

    fsync, save_file = os.fsync, checkpoint.save_file

    def watched_fsync(handle: int) -> None:
        hook("os.fsync", (handle,))
        fsync(handle)

    def watched_save_file(tensors: Any, path: Any) -> None:
        hook("os.save_file", (path,))
        save_file(tensors, path)
        hook("os.saved_file", (path,))

    os.fsync = watched_fsync
    checkpoint.save_file = watched_save_file
    sys.addaudithook(hook)


def counted(then: Callable[[int, str, tuple[Any, ...]], None]) -> Act:
    """An `act` that also knows the number of the call, from 0."""
    number = -1

    def act(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal number
        number += 1
        then(number, name, arguments)

    return act


def die() -> None:
    """SIGKILL to this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def cut(handle: int, share: str) -> None:
    """Leave of a file that is being synced as much as a torn write would."""
    path = f"/proc/self/fd/{handle}"
    size = os.fstat(handle).st_size
    left = {"nothing": 0, "a byte": 1, "half": size // 2, "all but a byte": size - 1}[share]
    os.truncate(path, left)


CUTS = ("nothing", "a byte", "half", "all but a byte")


def is_file(handle: int) -> bool:
    """Whether what is synced is a file, not a folder."""
    import stat

    return stat.S_ISREG(os.fstat(handle).st_mode)


def at_step(step: int, action) -> None:
    """Do something when a step begins, counted from 0."""
    original = loop._step

    def begin(job, *others):
        if job.step == step:
            action()
        return original(job, *others)

    loop._step = begin
