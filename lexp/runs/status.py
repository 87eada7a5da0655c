"""status.json: the progress of a run as its process last wrote it, and whether that still holds.

The file of a killed process says `running` forever, so `judge` checks it: a run whose process has
ended, whose folder is not locked or whose heartbeat has stopped is `lost`.
"""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lexp.runs.locks import is_held
from lexp.runs.run import Run
from lexp.system.errors import (
    EXIT_INTERRUPTED,
    EXIT_PREEMPTED,
    CheckpointError,
    Diverged,
    OutOfMemory,
)
from lexp.system.files import write_json
from lexp.system.reading import read_own

QUEUED, RUNNING, DONE, PREEMPTED, INTERRUPTED, DIVERGED, MEMORY, FAILED = (
    "queued", "running", "done", "preempted", "interrupted", "diverged", "out of memory", "failed",
)  # fmt: skip
LOST = "lost"  # never written: judged of a process that ended without writing its last status
STATES = (QUEUED, RUNNING, DONE, PREEMPTED, INTERRUPTED, DIVERGED, MEMORY, FAILED, LOST)
# Heartbeats come every few seconds, also during a long step; clocks of two machines may differ.
SILENT_S = 120.0
MAX_NUMBER = 1e15


@dataclass(frozen=True)
class Status:
    """The status of a run.

    step, n_steps: optimiser steps done and to do, None before they are known. tokens_per_s: since
    this start, validation and checkpoints included. updated: time of writing, in seconds since
    1970. pid, host: of the process that wrote it (of a queued run: of the command that will start
    it, None on a cluster). slurm_job: as squeue names it. reason: one line; empty in states without
    one. stepped: when the heartbeat last saw a new step, in seconds since 1970.
    """

    state: str
    step: int | None = None
    n_steps: int | None = None
    tokens_per_s: float | None = None
    seconds_left: float | None = None
    updated: float = 0.0
    pid: int | None = None
    host: str | None = None
    slurm_job: str | None = None
    reason: str = ""
    stepped: float | None = None


def write(folder: Path, status: Status) -> None:
    """Write a run's status with the present time; StorageError if it cannot be written."""
    write_json(folder / "status.json", asdict(replace(status, updated=round(time.time(), 3))))


def read(folder: Path) -> Status | None:
    """Return a run's status as written, None if there is none; CheckpointError if it is damaged."""
    path = folder / "status.json"
    try:
        return _parse(json.loads(read_own(path)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not the status of a run ({error})") from None


def _parse(values: Any) -> Status:
    """Return the status of these values; ValueError or TypeError if `write` cannot have written it.

    Files may come from elsewhere.
    """
    if not isinstance(values, dict):
        raise ValueError("not an object")
    status = Status(**values)
    if status.state not in STATES or status.state == LOST:
        raise ValueError(f"state {status.state!r}")
    for name in ("step", "n_steps", "pid", "tokens_per_s", "seconds_left", "updated", "stepped"):
        value = getattr(status, name)
        whole = name in ("step", "n_steps", "pid")
        if value is not None and not (_is_count(value) and (type(value) is int or not whole)):
            raise ValueError(f"{name} {str(value)[:40]}")
    for name in ("host", "slurm_job", "reason"):
        if not isinstance(getattr(status, name), str | None):
            raise ValueError(f"{name} {getattr(status, name)!r}")
    if status.updated is None or status.reason is None:
        raise ValueError("updated and reason must be given")
    return status


def _is_count(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_NUMBER


def judge(folder: Path, now: float | None = None) -> Status:
    """Return a run's status as it is now: `done` if marked so, `lost` with a reason if killed.

    `failed` if something else than lexp's own files is in their place.
    """
    try:
        return _judge(folder, now)
    except CheckpointError as error:
        return Status(FAILED, reason=str(error))


def _judge(folder: Path, now: float | None) -> Status:
    try:
        status = read(folder)
    except CheckpointError as error:
        status = Status(FAILED, reason=str(error))
    run = Run(folder)
    if run.is_marked and run.problem:
        return replace(status or Status(FAILED), state=FAILED, reason=run.problem)
    if run.is_marked:
        # The mark decides: the process may have been killed between writing mark and status.
        return replace(status or Status(DONE), state=DONE, seconds_left=None, reason="")
    if status is None:
        held = is_held(folder)
        return Status(RUNNING) if held else Status(LOST, reason="status.json is missing")
    if status.state == DONE:
        return replace(status, state=LOST, reason="done.json is missing; repeat the command")
    if status.state == QUEUED and _is_gone(status):
        return replace(status, state=LOST, reason="the command that queued it has ended")
    if status.state == RUNNING:
        reason = _why_lost(folder, status, time.time() if now is None else now)
        if reason:
            return replace(status, state=LOST, seconds_left=None, reason=reason)
    return status


def _why_lost(folder: Path, status: Status, now: float) -> str:
    """Return why a run with status `running` is lost; "" if it is running."""
    silent_s = now - status.updated
    if status.host != socket.gethostname() or status.pid is None:
        return f"no heartbeat for {silent_s:.0f} s" if silent_s > SILENT_S else ""
    # A process id may belong to another process by now, or to another container.
    suspicious = silent_s > SILENT_S or not _is_alive(status.pid)
    return f"its process {status.pid} has ended" if suspicious and not is_held(folder) else ""


def _is_gone(status: Status) -> bool:
    """Return True if the process that wrote the status ran on this machine and has ended."""
    here = status.host == socket.gethostname() and status.pid is not None
    return here and not _is_alive(status.pid or 0)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def ending(error: BaseException | None) -> tuple[str, str]:
    """Return the state and reason of a training that ends with this exception."""
    if error is None:
        return DONE, ""
    if isinstance(error, Diverged):
        return DIVERGED, one_line(error)
    if isinstance(error, OutOfMemory):
        return MEMORY, one_line(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, ""
    if isinstance(error, SystemExit):
        if error.code in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
            state = PREEMPTED if error.code == EXIT_PREEMPTED else INTERRUPTED
            return state, "saved; the same command resumes it"
        if error.code == -1:  # submitit, for a signal before there was anything to save
            return PREEMPTED, "queued again"
        return FAILED, f"ended by sys.exit({error.code})"
    return FAILED, one_line(error)


def one_line(error: BaseException) -> str:
    """Return an exception's message as one line of at most 300 characters, or its type."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"


def slurm_job() -> str | None:
    """Return this process's SLURM job as squeue names it: 12 or, in an array, 12_3; else None."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def close(folder: Path, reason: str) -> None:
    """Mark the run of a job that has ended as failed, unless the run wrote its end itself."""
    status = read(folder)
    if status is None or status.state not in (QUEUED, RUNNING) or Run(folder).is_done:
        return
    if not is_held(folder):
        write(folder, replace(status, state=FAILED, seconds_left=None, reason=reason))
