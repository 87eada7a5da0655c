"""Child processes that are forked from this one: no second start of Python, killed as any other.

A child runs what the command runs, with its exit codes and its one line of error.
"""

import contextlib
import faulthandler
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import lexp.data.text  # noqa: F401
from lexp.cli.main import guarded
from lexp.record.metrics import read
from support.training import result_of

# What is imported by its first use is imported here, once, and not again in every fork.
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])

DEFECT = 70  # a traceback
LIMIT_S = 180.0


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit code, or minus the signal that killed it."""

    code: int
    said: str
    seconds: float

    def is_one_line(self) -> bool:
        """Whether its last line is the error, and no traceback is above it."""
        lines = self.said.strip().splitlines()
        return bool(lines) and lines[-1].startswith("lexp: ") and "Traceback" not in self.said


@dataclass(frozen=True)
class Child:
    """A forked process and the file it writes to."""

    pid: int
    log: Path
    started: float

    def end(self, limit_s: float = LIMIT_S) -> Ended:
        """Wait for it; a child that hangs is killed and is a failure of the test."""
        while time.monotonic() - self.started < limit_s:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                seconds = time.monotonic() - self.started
                return Ended(code, self.log.read_text(errors="replace"), seconds)
            time.sleep(0.002)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"still there after {limit_s} s: {self.log.read_text()[-2000:]}")


def start(action: Callable[[], None], log: Path) -> Child:
    """Fork; the child does what is asked for as `lexp` would, and ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    pid = os.fork()
    if pid:
        return Child(pid, log, started)
    gc.freeze()  # what this process had is not searched again for garbage in each fork
    code = DEFECT
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        faulthandler.enable(sys.stderr)  # not where pytest has it: a crash is in the log
        # A shell lets what it starts in the background ignore Ctrl-C; a terminal does not.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = guarded("train", action)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, AttributeError):  # a test may close its streams
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run(action: Callable[[], None], log: Path) -> Ended:
    """Fork and wait."""
    return start(action, log).end()


def assert_whole(folder: Path, whole: dict[str, bytes]) -> None:
    """A finished run equal to the uninterrupted one bit for bit, a line per step, nothing left."""
    assert result_of(folder) == whole
    steps = [row["step"] for row in read(folder / "metrics.jsonl") if row["event"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert json.loads((folder / "done.json").read_text())["step"] == len(steps)
    assert not list((folder / "checkpoints").glob(".*"))
    assert not list(folder.glob(".*"))
