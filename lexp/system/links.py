"""Symbolic links: followed where the user names a folder, refused inside the outputs of lexp.

A study or run folder may be somebody else's, and a link in it could make lexp empty, replace or
delete any file of the user, or take one for a result. So all of lexp's own paths begin with a
folder from `real_folder`, and no part of such a path may be a link.
"""

import os
import stat
from pathlib import Path

from lexp.system.errors import LexpError, StorageError


def real_folder(path: Path | str) -> Path:
    """Return a folder that the user names: unchanged, or resolved if a part of it is a link.

    StorageError if a link leads nowhere, as where a disk is not mounted.
    """
    text = os.fspath(path)
    if first_link(Path(text)) is None:
        return Path(text)
    while (link := first_link(Path(text))) is not None:
        if not os.path.exists(link):
            raise StorageError(
                f"{link} is a symbolic link to {os.readlink(link)}, where nothing is: "
                "mount the disk, or create the folder"
            )
        text = os.path.realpath(link) + text[len(link) :]
    return Path(os.path.normpath(text))


def refuse_links(path: Path, error: type[LexpError] = StorageError) -> None:
    """Raise an error that names the first part of a path that is a symbolic link, if any is."""
    link = first_link(path)
    if link is not None:
        raise error(
            f"{link} is a symbolic link; lexp follows none inside of its outputs: "
            "put what it points to in its place, or remove it"
        )


def first_link(path: Path) -> str | None:
    """Return the shortest beginning of a path that is a symbolic link; None if there is none."""
    text, end = os.fspath(path), 0
    while end < len(text):
        end = text.find(os.sep, end + 1)
        end = len(text) if end < 0 else end
        try:
            mode = os.lstat(text[:end]).st_mode
        except OSError:  # nothing is there: whoever uses the path will say so
            return None
        if stat.S_ISLNK(mode):
            return text[:end]
    return None
