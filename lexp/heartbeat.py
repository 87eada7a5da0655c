"""While a run trains, a thread writes down how far it is, every few seconds; then how it ended.

A thread, so that the training loop does nothing for it, and so that a long tokenising, compiling
or validation does not look like a death.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lexp import status
from lexp.errors import LexpError
from lexp.status import Status

BEAT_EVERY_S = 5.0
# On a slow file system beats become rarer: writing takes at most this share of the time.
MAX_SHARE = 0.01


class Heartbeat:
    """Writes a run's status; `follow` tells it where the step count is to be read."""

    def __init__(self, folder: Path, n_steps: int):
        self._folder, self._n_steps = folder, n_steps
        self._step: Callable[[], int] | None = None
        self._first, self._step_tokens, self._since = 0, 0, 0.0
        self._stop = threading.Event()
        self._now = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def follow(self, step: Callable[[], int], step_tokens: int) -> None:
        """From now on steps are made: how many are done, and the tokens of each."""
        self._first, self._step_tokens, self._since = step(), step_tokens, time.monotonic()
        self._step = step
        self._now.set()

    def start(self) -> None:
        """Write `running` and keep it fresh; StorageError if the folder cannot be written."""
        status.write(self._folder, self._status(status.RUNNING))
        self._thread.start()

    def end(self, state: str, reason: str) -> None:
        """Write the last status."""
        self._stop.set()
        self._now.set()
        self._thread.join()
        status.write(self._folder, self._status(state, reason))

    def _beat(self) -> None:
        pause = BEAT_EVERY_S
        while True:
            self._now.wait(pause)
            self._now.clear()
            if self._stop.is_set():
                return
            started = time.monotonic()
            # A full disk ends the run where it saves, with a line that names the path; not here.
            with contextlib.suppress(LexpError):
                status.write(self._folder, self._status(status.RUNNING))
            pause = max(BEAT_EVERY_S, (time.monotonic() - started) / MAX_SHARE)

    def _status(self, state: str, reason: str = "") -> Status:
        step = self._step() if self._step else None
        per_s = left_s = None
        if step is not None and step > self._first:
            step_s = (time.monotonic() - self._since) / (step - self._first)
            per_s = round(self._step_tokens / step_s, 1)
            left_s = round((self._n_steps - step) * step_s, 1)
        return Status(
            state=state,
            step=step,
            n_steps=self._n_steps,
            tokens_per_s=per_s,
            seconds_left=left_s if state == status.RUNNING else None,
            pid=os.getpid(),
            host=socket.gethostname(),
            slurm_job=status.slurm_job(),
            reason=reason,
        )


@contextlib.contextmanager
def told(folder: Path, n_steps: int) -> Iterator[Heartbeat]:
    """Within: the run's status is kept fresh; whatever ends the work is its last status."""
    heartbeat = Heartbeat(folder, n_steps)
    heartbeat.start()
    try:
        yield heartbeat
    except BaseException as error:
        # What went wrong is worth more than a complaint that it cannot be written down.
        with contextlib.suppress(LexpError):
            heartbeat.end(*status.ending(error))
        raise
    heartbeat.end(status.DONE, "")
