"""metrics.jsonl: one line per event, in order, each once whatever kills and resumes happened."""

import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

from lexp.system.files import storage


class Metrics:
    """Appends lines; reopened at the byte a checkpoint remembers, so no step is there twice."""

    def __init__(self, path: Path, resume_at: int = 0):
        self._path = path
        with storage(path):
            self._file = path.open("ab")
            there = path.stat().st_size
            if there < resume_at:
                warnings.warn(
                    f"{path} has {there} bytes, the checkpoint knew {resume_at}: lines are lost",
                    stacklevel=2,
                )
            self._file.truncate(min(resume_at, there))
            self._file.seek(0, 2)

    def log(self, **values: Any) -> None:
        """Write one line; a number that is not finite becomes text, as JSON has none."""
        line = {key: _plain(value) for key, value in values.items()}
        with storage(self._path):
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()

    def sync(self) -> int:
        """Make every line last; the bytes written, which is what a checkpoint remembers."""
        with storage(self._path):
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        with storage(self._path):
            self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file."""
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
