"""Progress within one evaluation, so that what an interrupted start scored is not lost.

A line of JSON (the spec's digest, how many passes are done, a digest of both and of the losses) and
the numbers. A file of another evaluation, or a damaged one, is said and scored anew.
"""

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lexp.system.files import remove_file, write_bytes
from lexp.system.output import warn
from lexp.system.reading import open_own

# An unfinished evaluation's losses are written this often.
SAVE_EVERY_S = 10.0
MOST_HEADER_BYTES = 4096


@dataclass
class PartialFile:
    """Losses of an unfinished evaluation, written now and then; the next start goes on there.

    spec: digest of the evaluation's spec. n: how many losses it has when it is complete. dtype: of
    the losses (or tokens) in the file, float32 unless it is given.
    """

    path: Path
    spec: str
    n: int
    dtype: str = "<f4"
    _last: float = field(default_factory=time.monotonic)

    def load(self) -> tuple[np.ndarray, int] | None:
        """Return losses [n] and how many forward passes they come from; None if there are none."""
        try:
            return self._read()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            warn(f"{self.path} is left out, scoring begins anew: {error}", stacklevel=2)
            return None

    def _read(self) -> tuple[np.ndarray, int]:
        """Read the file; ValueError if it is not what `save` wrote for this evaluation."""
        n_bytes = np.dtype(self.dtype).itemsize * self.n
        with open_own(self.path) as file:
            # No more is read than there can be.
            header = file.readline(MOST_HEADER_BYTES)
            data = file.read(n_bytes + 1)
        stored = json.loads(header)
        if not isinstance(stored, dict) or type(stored.get("n_done")) is not int:
            raise ValueError("it is not a file of losses")
        if stored != self._header(data, stored["n_done"]):
            raise ValueError("it is damaged, or of another evaluation")
        if len(data) != n_bytes or stored["n_done"] < 0:
            raise ValueError(f"it has not {self.n} losses")
        losses = np.frombuffer(data, dtype=self.dtype)
        return losses.astype(losses.dtype.newbyteorder("=")), stored["n_done"]

    def save(self, nats: np.ndarray, n_done: int) -> None:
        """Write losses [n] after n_done passes, unless that was done a moment ago."""
        if time.monotonic() - self._last < SAVE_EVERY_S:
            return
        self._last = time.monotonic()
        data = nats.astype(self.dtype).tobytes()
        header = json.dumps(self._header(data, n_done)).encode()
        write_bytes(self.path, header + b"\n" + data)

    def _header(self, data: bytes, n_done: int) -> dict[str, str | int]:
        named = f"{self.spec} {n_done} ".encode()
        return {
            "spec": self.spec, "n_done": n_done, "sha256": hashlib.sha256(named + data).hexdigest(),
        }  # fmt: skip

    def remove(self) -> None:
        """Remove the file: the evaluation is complete."""
        remove_file(self.path)
