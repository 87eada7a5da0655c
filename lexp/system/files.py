"""Durable files, complete or absent, digests, and the folder of configs."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lexp.system.errors import StorageError, advice


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
    with storage(path):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    return path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file durably: to a temporary file first, which is synced and renamed."""
    with storage(path):
        try:
            _write_beside(path, data)
        except FileNotFoundError:
            # Another process that has just locked the folder deleted the temporary file (`clean`).
            _write_beside(path, data)
        sync_folder(path.parent)


def _write_beside(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def leftovers(folder: Path) -> list[Path]:
    """Return temporary files of JSON files, of killed writers or of those that still write."""
    # mkstemp's names end in eight characters.
    return [p for p in folder.glob(".*") if re.fullmatch(r"\.\w+\.json\.[a-z0-9_]{8}", p.name)]


def clean(folder: Path) -> None:
    """Delete `leftovers`; the caller must hold the folder's lock and have written nothing yet."""
    for leftover in leftovers(folder):
        leftover.unlink(missing_ok=True)


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
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object")
    if value.pop("sha256", None) != digest(value):
        raise ValueError(f"{path} is damaged (digest differs)")
    return value


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return the hex digest of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _umask() -> int:
    # mkstemp makes private files; results must be as readable as other files of the user.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def config_folder() -> Path:
    """Return the folder conf/: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"
