"""The heartbeat of a run: a thread writes its progress every few seconds, and how it ended.

A thread, so that the training loop does no work for it, and so that a long tokenising, compiling
or validation does not look like a killed process. A hung run (a device, a file system, a lock)
keeps sending heartbeats, so each heartbeat also records the time of the last step; `stall_min` is
the timeout.
"""

import contextlib
import faulthandler
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from lexp.runs import status
from lexp.runs.status import Status
from lexp.system.errors import EXIT_STALLED, LexpError
from lexp.system.output import say

BEAT_EVERY_S = 5.0
# On a slow file system heartbeats become rarer: writing takes at most this share of the time.
MAX_SHARE = 0.01
# The thread that assembles batches ahead of the steps, which wait for it.
BATCHES_THREAD = "batches"


class Heartbeat:
    """Writes a run's status periodically; `follow` sets the function that counts its steps.

    stall_s: seconds without a step after which the process is killed; inf: never.
    """

    def __init__(self, folder: Path, n_steps: int, stall_s: float = math.inf):
        self._folder, self._n_steps, self._stall_s = folder, n_steps, stall_s
        self._step: Callable[[], int] | None = None
        self._first, self._step_tokens, self._since = 0, 0, 0.0
        self._seen, self._moved = 0, 0.0
        self._stop = threading.Event()
        self._now = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def follow(self, step: Callable[[], int], step_tokens: int) -> None:
        """Start to count steps. step: returns how many are done. step_tokens: tokens per step."""
        self._first, self._step_tokens, self._since = step(), step_tokens, time.monotonic()
        self._seen, self._moved = self._first, self._since
        self._step = step
        self._now.set()

    def start(self) -> None:
        """Write `running` and start the thread; StorageError if the folder is not writable."""
        status.write(self._folder, self._status(status.RUNNING))
        self._thread.start()

    def end(self, state: str, reason: str) -> None:
        """Stop the thread and write the last status."""
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
            # A full disk ends the run at its next checkpoint, with a message; not here.
            with contextlib.suppress(LexpError):
                status.write(self._folder, self._status(status.RUNNING))
            if self._step and time.monotonic() - self._moved > self._stall_s:
                self._give_up()
            pause = max(BEAT_EVERY_S, (time.monotonic() - started) / MAX_SHARE)
            pause = min(pause, self._stall_s)

    def _give_up(self) -> None:
        """End a hung process; it can neither save nor raise an error."""
        reason = f"hung: no step for {self._stall_s:.0f} s (stall_min), in {hangs_in()}"
        with contextlib.suppress(Exception):  # the stacks of all threads go to the log
            faulthandler.dump_traceback(sys.stderr)
        say(f"lexp: {reason}")
        with contextlib.suppress(LexpError):
            status.write(self._folder, self._status(status.FAILED, reason))
        os._exit(EXIT_STALLED)

    def _status(self, state: str, reason: str = "") -> Status:
        step = self._step() if self._step else None
        per_s = left_s = stepped = None
        if step is not None:
            if step != self._seen:
                self._seen, self._moved = step, time.monotonic()
            stepped = round(time.time() - (time.monotonic() - self._moved), 3)
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
            stepped=stepped,
        )


def hangs_in() -> str:
    """Return the file and line of the main thread, or of the thread whose batch it waits for."""
    frames = sys._current_frames()
    makers = [thread for thread in threading.enumerate() if thread.name == BATCHES_THREAD]
    stacks = [
        traceback.extract_stack(frames[thread.ident])
        for thread in (threading.main_thread(), *makers)
        if thread.ident in frames
    ]
    # Both wait in a queue, the step for a batch and the batch for its turn: only one of them hangs.
    busy = (s for s in stacks if all(Path(call.filename).name != "queue.py" for call in s))
    last = next(busy, stacks[0])[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


@contextlib.contextmanager
def status_heartbeat(folder: Path, n_steps: int, stall_s: float = math.inf) -> Iterator[Heartbeat]:
    """Keep the run's status current while the block runs, and write how it ended."""
    heartbeat = Heartbeat(folder, n_steps, stall_s)
    heartbeat.start()
    try:
        yield heartbeat
    except BaseException as error:
        # The error matters more than a second one that says it could not be written.
        with contextlib.suppress(LexpError):
            heartbeat.end(*status.ending(error))
        raise
    heartbeat.end(status.DONE, "")
