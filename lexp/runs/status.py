"""status.json: how far a run is, as its own process last said, and what became of it since.

A file says `running` for ever if its process was killed, so what is shown is judged again: a run
whose process is gone, whose folder nobody holds or whose heartbeat has stopped is `lost`.
"""

import json
import math
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

QUEUED, RUNNING, DONE, PREEMPTED, INTERRUPTED, DIVERGED, MEMORY, FAILED = (
    "queued", "running", "done", "preempted", "interrupted", "diverged", "out of memory", "failed",
)  # fmt: skip
LOST = "lost"  # never written: what is seen of a process that could not write any more
STATES = (QUEUED, RUNNING, DONE, PREEMPTED, INTERRUPTED, DIVERGED, MEMORY, FAILED, LOST)
# Heartbeats come every few seconds, also between steps; clocks of two machines may differ.
SILENT_S = 120.0


@dataclass(frozen=True)
class Status:
    """One run's status.

    step, n_steps: optimiser steps done and to do, None before they are known. tokens_per_s: since
    this start, validations and checkpoints included. updated: seconds since 1970. pid, host: of the
    process that wrote it (of a queued run: of the command that will start it, None where that is a
    cluster). slurm_job: as squeue names it. reason: one line, of states that have one.
    stepped: seconds since 1970 when the step count last grew, as the heartbeat saw it.
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
    """Put a run's status in place, stamped with the time; StorageError if it cannot be written."""
    write_json(folder / "status.json", asdict(replace(status, updated=round(time.time(), 3))))


def read(folder: Path) -> Status | None:
    """A run's status as written, None if there is none; CheckpointError if it is not one."""
    path = folder / "status.json"
    try:
        return _parse(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not the status of a run ({error})") from None


def _parse(values: Any) -> Status:
    """ValueError or TypeError for what `write` does not write: files may be somebody else's."""
    if not isinstance(values, dict):
        raise ValueError("not an object")
    status = Status(**values)
    if status.state not in STATES or status.state == LOST:
        raise ValueError(f"state {status.state!r}")
    for name in ("step", "n_steps", "pid", "tokens_per_s", "seconds_left", "updated", "stepped"):
        value = getattr(status, name)
        if value is not None and not _is_count(value):
            raise ValueError(f"{name} {value!r}")
    for name in ("host", "slurm_job", "reason"):
        if not isinstance(getattr(status, name), str | None):
            raise ValueError(f"{name} {getattr(status, name)!r}")
    if status.updated is None or status.reason is None:
        raise ValueError("updated and reason must be given")
    return status


def _is_count(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def judge(folder: Path, now: float | None = None) -> Status:
    """What is the matter with a run: its status, `done` by its mark, or `lost` with the reason."""
    try:
        status = read(folder)
    except CheckpointError as error:
        status = Status(FAILED, reason=str(error))
    if Run(folder).is_done:
        # The mark counts: the process may have been killed between the mark and the status.
        return replace(status or Status(DONE), state=DONE, seconds_left=None, reason="")
    if status is None:
        held = is_held(folder)
        return Status(RUNNING) if held else Status(LOST, reason="it has no status.json")
    if status.state == QUEUED and _is_gone(status):
        return replace(status, state=LOST, reason="the command that would start it is gone")
    if status.state == RUNNING:
        reason = _why_lost(folder, status, time.time() if now is None else now)
        if reason:
            return replace(status, state=LOST, seconds_left=None, reason=reason)
    return status


def _why_lost(folder: Path, status: Status, now: float) -> str:
    """Why a run that said it was running is not; "" if it is."""
    silent_s = now - status.updated
    if status.host != socket.gethostname() or status.pid is None:
        return f"not heard of for {silent_s:.0f} s" if silent_s > SILENT_S else ""
    # A process id may have been given to another process since, or mean nothing in a container.
    suspicious = silent_s > SILENT_S or not _is_alive(status.pid)
    return f"its process {status.pid} is gone" if suspicious and not is_held(folder) else ""


def _is_gone(status: Status) -> bool:
    """Whether the process that wrote it was one of this machine and is no more."""
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
    """The state in which a training ends that leaves with this exception, and its reason."""
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
            return state, "saved; the same command goes on"
        if error.code == -1:  # submitit, on a signal that came before there was anything to save
            return PREEMPTED, "queued again"
        return FAILED, f"left by sys.exit({error.code})"
    return FAILED, one_line(error)


def one_line(error: BaseException) -> str:
    """An exception's message in one line of bounded length; its type where it has no message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"


def slurm_job() -> str | None:
    """The SLURM job this process belongs to, as squeue names it: 12 or, in an array, 12_3."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def close(folder: Path, reason: str) -> None:
    """After a job has ended: a run that could not say so itself is marked as failed."""
    status = read(folder)
    if status is None or status.state not in (QUEUED, RUNNING) or Run(folder).is_done:
        return
    if not is_held(folder):
        write(folder, replace(status, state=FAILED, seconds_left=None, reason=reason))
