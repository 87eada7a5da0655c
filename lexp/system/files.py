"""Durable files, complete or absent, digests, and the folder of configs.

Everything that lexp writes, renames and deletes passes this module, which follows no symbolic link
(`lexp.system.links`); tests/project/test_writes.py finds what does not.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lexp.system.errors import CheckpointError, StorageError, advice
from lexp.system.links import refuse_links
from lexp.system.reading import open_file, open_own, read_own, require_file


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Raise an OSError of the block as a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}{advice(error)}"
        raise StorageError(f"cannot write {path}: {reason}") from error


def make_folder(path: Path) -> Path:
    """Create a folder and its parents, durably; return it. StorageError if that fails."""
    refuse_links(path)
    with storage(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    return path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file durably: to a temporary file first, which is synced and renamed."""
    refuse_links(path)
    with storage(path):
        try:
            _write_beside(path, data)
        except FileNotFoundError:
            # Another process that has just locked the folder deleted the temporary file (`clean`).
            _write_beside(path, data)
        sync_folder(path.parent)


def _write_beside(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    try:
        with open_new(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def leftovers(folder: Path, *names: str) -> list[Path]:
    """Return temporary files of killed writers, or of those that still write.

    names: of what is written in the folder, with `*` for any text; without any, of JSON files.
    """
    words = "|".join(re.escape(name).replace(r"\*", ".*") for name in names or ("*.json",))
    return [p for p in folder.glob(".*") if re.fullmatch(rf"\.({words})\.[a-z0-9_]{{8}}", p.name)]


def clean(folder: Path, *names: str) -> None:
    """Delete `leftovers`; the caller must hold the folder's lock and have written nothing yet."""
    refuse_links(folder)
    for leftover in leftovers(folder, *names):
        leftover.unlink(missing_ok=True)


def open_new(path: Path) -> BinaryIO:
    """Create a file of lexp's own and open it for writing; OSError if it is there already."""
    refuse_links(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def open_to_append(path: Path) -> BinaryIO:
    """Open a file of lexp's own for reading and appending; it is created if it is missing.

    StorageError for a link, or anything else that is no regular file.
    """
    refuse_links(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with storage(path):
        handle = os.open(path, flags, 0o666)
        try:
            require_file(os.fstat(handle).st_mode, path)
        except OSError:
            os.close(handle)
            raise
        os.set_blocking(handle, True)
        return os.fdopen(handle, "a+b")


def remove_file(path: Path) -> None:
    """Delete a file of lexp's own, if it is there."""
    refuse_links(path.parent)
    with storage(path):
        path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Delete a folder of lexp's own with all that is in it, as far as that can be done."""
    refuse_links(path)
    if path.is_dir():  # rmtree opens it, and would wait for a writer of a FIFO
        shutil.rmtree(path, ignore_errors=True)  # deletes links in it, and nothing behind them


def remove_empty_folder(path: Path) -> None:
    """Delete a folder of lexp's own; OSError if anything is in it."""
    refuse_links(path)
    path.rmdir()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to fill, which `publish` renames to `path`; otherwise it is deleted.

    StorageError if it cannot be made.
    """
    temporary = make_new_folder(path)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # renamed already, unless something failed


def make_new_folder(path: Path) -> Path:
    """Return a new folder to fill, which `publish` renames to `path`.

    StorageError if it cannot be made.
    """
    refuse_links(path)
    temporary = _temporary(path)
    with storage(path):
        temporary.mkdir()
    return temporary


def publish(temporary: Path, path: Path) -> None:
    """Rename a filled folder durably; OSError if another is there."""
    refuse_links(path)
    os.rename(temporary, path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, as `write_bytes`; a character that UTF-8 lacks becomes `?`."""
    write_bytes(path, text.encode(errors="replace"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, as `write_bytes`; ValueError for NaN, which not every reader accepts."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write JSON with a digest of the value, for `read_sealed`."""
    write_json(path, {**value, "sha256": digest(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote; OSError or ValueError if it is absent or damaged."""
    try:
        value = json.loads(read_own(path).decode())
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object")
    if value.pop("sha256", None) != digest(value):
        raise ValueError(f"{path} is damaged (digest differs)")
    return value


def sync_file(path: Path, like: Path) -> None:
    """Make a file that a library wrote durable, as readable as another of the user's files.

    safetensors writes files for their owner alone, so that a group could not share a run.
    """
    with open_own(path) as file:
        os.fchmod(file.fileno(), stat.S_IMODE(like.stat().st_mode))
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Return the hex digest of a file that the user names; links are followed."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def sha256_own(path: Path) -> str:
    """Return the hex digest of a file of lexp's own folders; CheckpointError for a link."""
    refuse_links(path, CheckpointError)
    return sha256(path)


def digest(value: Any) -> str:
    """Return the hex digest of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def one_number(value: Any) -> Any:
    """Return a float that is a whole number as an int, and any other value as it is.

    A digest tells 2 from 2.0, and a user does not.
    """
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value


def config_folder() -> Path:
    """Return the folder conf/: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"
