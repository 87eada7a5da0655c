"""The arrays of a record: a .npz file beside its row, named there by digest."""

import ast
import functools
import hashlib
import io
import math
import struct
import tokenize
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np

from lexp.system.errors import DataError
from lexp.system.files import sha256_own, write_bytes
from lexp.system.reading import open_own

Arrays = Mapping[str, Any]
# What NumPy and zipfile raise, between them, for a file that is cut short or has other bits in it.
DAMAGE = (
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, MemoryError, SyntaxError,
    BadZipFile, zlib.error, struct.error, tokenize.TokenError,
)  # fmt: skip
MAGIC = b"\x93NUMPY\x01\x00"


@dataclass(frozen=True)
class ArrayFile:
    """A file of arrays, and the digest that it had when it was written."""

    path: Path
    sha256: str

    def check(self) -> None:
        """Raise DataError if the file is missing or is not the one that was written."""
        try:
            is_same = sha256_own(self.path) == self.sha256
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror or error})") from None
        if not is_same:
            raise DataError(f"{self.path} is damaged (digest differs)")

    def load(self, most_bytes: int | None = None) -> dict[str, np.ndarray]:
        """Read all arrays into memory; DataError as for `check`. Never unpickles.

        most_bytes: that its record allows for; no memory is taken for more.
        """
        self.check()
        try:
            with open_own(self.path) as file, ZipFile(file) as stored:
                entries = stored.infolist()
                total = sum(entry.file_size for entry in entries)
                if most_bytes is not None and total > most_bytes:
                    raise ValueError(f"{total} bytes of arrays, its record allows {most_bytes}")
                return {
                    entry.filename.removesuffix(".npy"): _read_array(stored, entry)
                    for entry in entries
                }
        except DAMAGE as error:
            why = str(error) or type(error).__name__
            raise DataError(f"{self.path} is not a file of arrays ({why})") from None


def _read_array(stored: ZipFile, entry: ZipInfo) -> np.ndarray:
    """Read one array; ValueError, before any memory is taken, if it is not as large as it says.

    A file of a few kilobytes can declare an array of many gigabytes: what is there is read, and
    nothing is made of the size that it declares.
    """
    with stored.open(entry) as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{entry.filename} is not of version 1.0 of the format")
        (n_bytes,) = struct.unpack("<H", file.read(2))
        shape, is_fortran, dtype = _header(file.read(n_bytes))
        size = dtype.itemsize * math.prod(shape)
        if dtype.hasobject or size != entry.file_size - file.tell():
            raise ValueError(f"{entry.filename} is no array of {dtype} {shape}")
        values = np.frombuffer(bytearray(file.read()), dtype) if size else np.empty(0, dtype)
    return values.reshape(shape, order="F" if is_fortran else "C")


@functools.lru_cache
def _header(text: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, Fortran order and type that the header of an array declares.

    Cached: most arrays of a study have the same few headers, and parsing takes longer than reading.
    """
    header = ast.literal_eval(text.decode("latin-1").strip())
    shape, is_fortran = header["shape"], header["fortran_order"]
    if not isinstance(shape, tuple) or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"an array has no shape {shape!r}")
    return shape, bool(is_fortran), np.dtype(header["descr"])


def write_arrays(path: Path, arrays: Arrays) -> ArrayFile:
    """Write arrays by name, compressed, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    data = buffer.getvalue()
    write_bytes(path, data)
    return ArrayFile(path, hashlib.sha256(data).hexdigest())
