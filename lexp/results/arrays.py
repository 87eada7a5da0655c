"""The arrays of a record: a .npz file beside its row, named there by digest."""

import hashlib
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from lexp.system.errors import DataError
from lexp.system.files import sha256, write_bytes

Arrays = Mapping[str, Any]
# What NumPy and zipfile raise, between them, for a file that is cut short or has other bits in it.
DAMAGE = (
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class ArrayFile:
    """A file of arrays, and the digest that it had when it was written."""

    path: Path
    sha256: str

    def check(self) -> None:
        """Raise DataError if the file is missing or is not the one that was written."""
        try:
            is_same = sha256(self.path) == self.sha256
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror or error})") from None
        if not is_same:
            raise DataError(f"{self.path} is damaged (digest differs)")

    def load(self) -> dict[str, np.ndarray]:
        """Read all arrays into memory; DataError as for `check`. Never unpickles."""
        self.check()
        try:
            with np.load(self.path) as stored:
                return {name: stored[name] for name in stored.files}
        except DAMAGE as error:
            why = str(error) or type(error).__name__
            raise DataError(f"{self.path} is not a file of arrays ({why})") from None


def write_arrays(path: Path, arrays: Arrays) -> ArrayFile:
    """Write arrays by name, compressed, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    data = buffer.getvalue()
    write_bytes(path, data)
    return ArrayFile(path, hashlib.sha256(data).hexdigest())
