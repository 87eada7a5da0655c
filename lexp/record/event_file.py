"""The event file of a run, which TensorBoard reads: the numbers of metrics.jsonl, step by step.

The file is a list of records: the length of an event, a checksum, the event, a checksum. An event
is a message of protocol buffers, of which a run needs four fields (tensorflow/core/util/event.proto
and framework/summary.proto). They are encoded here, so that logging needs no package, follows no
symbolic link, and a resumed run continues in the file that it has.
"""

import os
import struct
import time
from pathlib import Path

import numpy as np

from lexp.record.null import NullLogger
from lexp.system.files import open_to_append, storage

FILE_NAME = "events.out.tfevents.lexp"  # TensorBoard looks for `tfevents` in names
VERSION = b"brain.Event:2"
CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C, reflected
WALL_TIME, STEP, FILE_VERSION, SUMMARY = 0x09, 0x10, 0x1A, 0x2A  # of Event, with their wire types
VALUE, TAG, SIMPLE_VALUE = 0x0A, 0x0A, 0x15  # of Summary and its values
HEAD_BYTES, FOOT_BYTES = 12, 4


class EventFile:
    """Appends events to the file of a run, without those after the step that it resumes from.

    What another start logged after that step is cut off, and so is a record that is not whole.
    """

    def __init__(self, folder: Path, step: int):
        self._path = folder / FILE_NAME
        self._file = open_to_append(self._path)
        with storage(self._path):
            self._file.seek(0)
            self._file.truncate(kept_bytes(self._file.read(), step))
            self._file.seek(0, os.SEEK_END)
            if not self._file.tell():
                self._write(_field(FILE_VERSION, VERSION))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write the numbers of a step, to be seen at once."""
        summary = b"".join(
            _field(VALUE, _field(TAG, name.encode()) + bytes([SIMPLE_VALUE]) + _float32(value))
            for name, value in values.items()
        )
        with storage(self._path):
            self._write(bytes([STEP]) + _varint(step) + _field(SUMMARY, summary))

    def finish(self) -> None:
        """Close the file."""
        with storage(self._path):
            self._file.close()

    def _write(self, fields: bytes) -> None:
        event = bytes([WALL_TIME]) + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


def start_event_file(wanted: bool, folder: Path, step: int) -> EventFile | NullLogger:
    """Return the logger for tensorboard=true|false. step: the last one that a checkpoint holds."""
    return EventFile(folder, step) if wanted else NullLogger()


def kept_bytes(data: bytes, step: int) -> int:
    """Return the size of the whole records at the beginning of a file, up to those of a step."""
    at = 0
    while at + HEAD_BYTES <= len(data):
        length = data[at : at + 8]
        (n_bytes,) = struct.unpack("<Q", length)
        event = data[at + HEAD_BYTES : at + HEAD_BYTES + n_bytes]
        end = at + HEAD_BYTES + n_bytes + FOOT_BYTES
        sums = data[at + 8 : at + HEAD_BYTES] + data[end - FOOT_BYTES : end]
        if sums != _checksum(length) + _checksum(event) or _step(event) > step:
            break
        at = end
    return at


def _step(event: bytes) -> int:
    """Return the step of an event of lexp's: the varint behind the time; 0 where there is none."""
    if event[9:10] != bytes([STEP]):
        return 0
    value = 0
    for number, byte in enumerate(event[10:]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            break
    return value


def _field(key: int, content: bytes) -> bytes:
    return bytes([key]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _float32(value: float) -> bytes:
    with np.errstate(over="ignore"):  # infinite, as everywhere in float32
        return np.float32(value).astype("<f4").tobytes()


def _table() -> tuple[int, ...]:
    """Return the checksums of single bytes."""
    sums = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (CASTAGNOLI if value & 1 else 0)
        sums.append(value)
    return tuple(sums)


BYTE_SUMS = _table()


def _checksum(data: bytes) -> bytes:
    """Return the CRC-32C of data, masked as the format wants it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = BYTE_SUMS[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
