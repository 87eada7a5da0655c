"""Check of the table of a SentencePiece normaliser (`Precompiled`), which the library trusts.

A table is the size of a trie in bytes (uint32), the trie, and replacements, each ended by a NUL.
The trie is a double array as of darts-clone: a unit holds a label, a flag, and the offset of its
children or the place of its replacement. Where one of them points out of the table, the library
panics or aborts the process.
"""

import base64
import binascii
import struct

import numpy as np

from lexp.system.errors import DataError

BYTES = np.arange(1, 256)


def check_charsmap(table: str) -> None:
    """Raise DataError if a table, as tokenizer.json has it in base64, points out of itself."""
    try:
        data = base64.b64decode(table, validate=True)
        (size,) = struct.unpack_from("<I", data)
        units = np.frombuffer(data[4 : 4 + size], dtype="<u4").astype(np.int64)
        replacements = data[4 + size :]
        replacements.decode()
    except (ValueError, TypeError, binascii.Error, struct.error) as error:
        raise DataError(f"the table of its Precompiled normalizer is damaged ({error})") from None
    if len(units) * 4 != size or not size or not _stays_inside(units, replacements):
        raise DataError("the table of its Precompiled normalizer points out of itself")


def _stays_inside(units: np.ndarray, replacements: bytes) -> bool:
    """Return True if every walk from the root ends inside the trie, at the start of a text."""
    seen: np.ndarray = np.zeros(len(units), dtype=bool)
    nodes = _offset(units[:1])
    while len(nodes):
        children = nodes[:, None] ^ BYTES
        if children.max() >= len(units):
            return False
        found = units[children]
        is_child = (found & (1 << 31 | 0xFF)) == BYTES
        units_there, next_nodes = found[is_child], children[is_child] ^ _offset(found[is_child])
        leaves = next_nodes[(units_there >> 8 & 1) == 1]
        if len(leaves):
            if leaves.max() >= len(units):
                return False
            places = units[leaves] & ((1 << 31) - 1)
            if places.max() > len(replacements):
                return False
            # A place inside of a character: its byte is a continuation, 10xxxxxx.
            text = np.frombuffer(replacements + b"\0", dtype=np.uint8)
            if ((text[places] & 0xC0) == 0x80).any():
                return False
        next_nodes = np.unique(next_nodes)
        if len(next_nodes) and next_nodes.max() >= len(units):
            return False
        nodes = next_nodes[~seen[next_nodes]]
        seen[nodes] = True
    return True


def _offset(units: np.ndarray) -> np.ndarray:
    return (units >> 10) << ((units & 1 << 9) >> 6)
