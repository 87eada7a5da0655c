"""What was found out of files by reading them whole, kept until one of them changes.

A file counts as unchanged if it has the same inode, size, time of its content and time of its
change (mtime, ctime). No copy keeps all four, and no touch sets the last: it is the kernel's.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lexp.system.errors import LexpError
from lexp.system.files import digest, make_folder, read_sealed, write_sealed

# A file system may count time in steps of 2 seconds. What was changed shorter ago could be changed
# again without any difference in its times.
SETTLED_NS = 2_000_000_000

# Inode, bytes, time of the content and time of the change in nanoseconds.
State = tuple[int, int, int, int]


def state_of(path: Path) -> State:
    """Return what tells a file from the one it becomes by any change; OSError if there is none."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(state: State, now_ns: int) -> bool:
    """Return whether a file was last changed so long ago that a further change would show."""
    return max(state[2:]) < now_ns - SETTLED_NS


def read_states(path: Path) -> dict[str, State]:
    """Return the states of files by name from a file of `write_states`; none if it is no such."""
    try:
        files = read_sealed(path)["files"]
        return {str(name): _state(value) for name, value in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, LexpError):
        return {}


def write_states(path: Path, states: Mapping[str, State]) -> None:
    """Keep the states of files that were checked. Where nothing can be written, nothing is."""
    with contextlib.suppress(LexpError):
        write_sealed(path, {"files": {name: list(state) for name, state in states.items()}})


def _state(value: Any) -> State:
    inode, size, written, changed = map(int, value)
    return inode, size, written, changed


@dataclass(frozen=True)
class FileFindings:
    """FileFindings kept in a folder; None: nowhere, and everything is read each time."""

    folder: Path | None = None

    def about(
        self, asked: Any, files: Iterable[Path], find: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return what `find` returns, a JSON object, and call it only if a file has changed.

        asked: what else it depends on, a JSON value.
        """
        if self.folder is None:
            return find()
        began_ns = time.time_ns()
        states = [(os.fspath(path.resolve()), *state_of(path)) for path in files]
        what, given = digest([asked, [path for path, *_ in states]]), digest(states)
        kept = self.folder / f"texts-{what[:16]}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, LexpError):
            found = read_sealed(kept)
            if found["files"] == given and found["asked"] == what:
                return dict(found["found"])
        found = find()
        newest = max((max(state[3:]) for state in states), default=0)
        if newest < began_ns - SETTLED_NS:
            with contextlib.suppress(LexpError):
                value = {"asked": what, "files": given, "found": found}
                write_sealed(make_folder(self.folder) / kept.name, value)
        return found
