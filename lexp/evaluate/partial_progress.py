"""Progress within one evaluation, so that what an interrupted start scored is not lost."""

import io
import time
from pathlib import Path

import numpy as np

from lexp.results.arrays import DAMAGE
from lexp.system.files import write_bytes

# An unfinished evaluation's losses are written this often.
SAVE_EVERY_S = 10.0


class PartialFile:
    """Losses of an unfinished evaluation, written now and then; the next start goes on there."""

    def __init__(self, path: Path):
        self.path = path
        self._last = time.monotonic()

    def load(self) -> tuple[np.ndarray, int] | None:
        """Return losses [n] and how many forward passes they come from; None if there are none."""
        try:
            with np.load(self.path) as stored:
                return stored["nats"], int(stored["n_done"])
        except DAMAGE:
            return None

    def save(self, nats: np.ndarray, n_done: int) -> None:
        """Write losses [n] after n_done passes, unless that was done a moment ago."""
        if time.monotonic() - self._last < SAVE_EVERY_S:
            return
        self._last = time.monotonic()
        buffer = io.BytesIO()
        np.savez(buffer, nats=nats, n_done=n_done)
        write_bytes(self.path, buffer.getvalue())

    def remove(self) -> None:
        """Remove the file: the evaluation is complete."""
        self.path.unlink(missing_ok=True)
