"""metrics.jsonl: one line per event, in order, each exactly once however often a run resumes."""

import json
import math
import os
from pathlib import Path
from typing import Any

from lexp.system.files import open_to_append, storage
from lexp.system.output import warn
from lexp.system.reading import read_own


class Metrics:
    """Appends lines to a file, after cutting it to the size that a checkpoint recorded."""

    def __init__(self, path: Path, resume_at: int = 0):
        self._path = path
        self._file = open_to_append(path)
        with storage(path):
            size = path.stat().st_size
            if size < resume_at:
                warn(
                    f"{path} has {size} bytes, the checkpoint recorded {resume_at}: lines are lost",
                    stacklevel=2,
                )
            self._file.truncate(min(resume_at, size))
            self._file.seek(0, 2)

    def log(self, **values: Any) -> None:
        """Write one line; numbers that are not finite become text, because JSON has none."""
        line = {key: _plain(value) for key, value in values.items()}
        with storage(self._path):
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()

    def sync(self) -> int:
        """Make all lines durable; return the file's size, which a checkpoint records."""
        with storage(self._path):
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        with storage(self._path):
            self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines of a metrics file."""
    lines = read_own(path).split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
