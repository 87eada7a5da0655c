"""Files that are read: regular ones only, and those of lexp's own folders behind no link.

Where a file is expected, a FIFO would make its reader wait for ever and a device never end.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from lexp.system.errors import CheckpointError
from lexp.system.links import refuse_links

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotAFile(OSError):
    """A folder, FIFO, socket or device in the place of a file."""

    def __init__(self, path: Path | str, kind: str):
        super().__init__(errno.EINVAL, f"is {kind}, not a file", str(path))

    def __str__(self) -> str:
        return str(self.strerror)


def open_file(path: Path) -> BinaryIO:
    """Open a file that the user names; links are followed. OSError if it is no regular file."""
    require_file(os.stat(path).st_mode, path)
    # Not blocking: another process may have put a FIFO there since.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.fdopen(handle, "rb")


def read_file(path: Path) -> bytes:
    """Return the bytes of a file that the user names, as `open_file`."""
    with open_file(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """Return the UTF-8 text of a file that the user names; OSError or UnicodeDecodeError."""
    return read_file(path).decode()


def open_own(path: Path) -> BinaryIO:
    """Open a file of lexp's own folders, as `open_file`; CheckpointError if a part is a link."""
    refuse_links(path, CheckpointError)
    return open_file(path)


def read_own(path: Path) -> bytes:
    """Return the bytes of a file of lexp's own folders, as `open_own`."""
    with open_own(path) as file:
        return file.read()


def own_file_exists(path: Path) -> bool:
    """Return whether there is a file in lexp's own folders; CheckpointError if there is more.

    That is, a link, a folder, a FIFO or a device: to take it for absent would hide it.
    """
    refuse_links(path, CheckpointError)
    try:
        require_file(os.lstat(path).st_mode, path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except NotAFile as error:
        raise CheckpointError(f"{path} {error}") from None
    return True


def require_file(mode: int, path: Path | str) -> None:
    """Raise NotAFile unless a mode is that of a regular file."""
    if kind := kind_of(mode):
        raise NotAFile(path, kind)


def kind_of(mode: int) -> str:
    """Return the kind of a file's mode, such as `a FIFO`; "" for a regular file."""
    return next((kind for is_kind, kind in KINDS if is_kind(mode)), "")
