"""Run jobs in parallel on one machine, each as a `lexp` command.

Each job is a process, so that a killed one (most often out of memory) ends no other.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lexp.commands.launch.plan import SweepJob, queued
from lexp.commands.launch.sweep_lines import SweepLines
from lexp.runs import status
from lexp.system import runtime
from lexp.system.children import child_environment, lexp_command
from lexp.system.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, ConfigError, JobFailed
from lexp.system.files import make_folder, open_to_append
from lexp.system.reading import read_own

LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Slot:
    """Resources of one job at a time: a GPU as CUDA_VISIBLE_DEVICES names it, and CPU threads."""

    gpu: str | None
    n_threads: int


@dataclass(frozen=True)
class _Started:
    job: SweepJob
    slot: Slot
    process: subprocess.Popen
    log: Path


def make_slots(jobs: int | str, per_gpu: int) -> list[Slot]:
    """Return a slot for each job that may run at once.

    jobs: a number, or `auto`: per_gpu on each GPU, or one per CPU core on a machine without GPUs.
    """
    if jobs != "auto" and (type(jobs) is not int or jobs < 1):
        raise ConfigError(f"hydra.launcher.jobs={jobs} (auto, or a whole number from 1)")
    if type(per_gpu) is not int or per_gpu < 1:
        raise ConfigError(f"hydra.launcher.per_gpu={per_gpu} (a whole number from 1)")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(number) for number in range(torch.cuda.device_count())]
    if gpus and visible:
        gpus = visible.split(",")[: len(gpus)]
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    n_cores = n_cores or 1
    n_jobs = jobs if isinstance(jobs, int) else per_gpu * len(gpus) or n_cores
    n_threads = max(1, n_cores // n_jobs)
    return [Slot(gpus[n % len(gpus)] if gpus else None, n_threads) for n in range(n_jobs)]


def run_processes(
    jobs: list[SweepJob],
    slots: list[Slot],
    command: Callable[[SweepJob], list[str]],
    logs: Path,
    shown: SweepLines,
) -> dict[int, JobFailed | None]:
    """Run all jobs, as many at once as there are slots; return by number each failure, or None.

    command: returns a job's words after `lexp`. logs: folder for the output of jobs without a run
    folder. shown: tells the user how far the sweep is. A signal to stop is passed on once: running
    jobs save, no other starts, SystemExit.
    """
    waiting, running, ended = list(jobs), list[_Started](), dict[int, JobFailed | None]()
    free = list(slots)
    passed_on = False
    with runtime.stop_signals() as stop, queued(jobs):
        try:
            while running or (waiting and stop.number is None):
                while waiting and free and stop.number is None:
                    running.append(_start(waiting.pop(0), free.pop(0), command, logs))
                    shown.start(running[-1].job, running[-1].slot.gpu, running[-1].log)
                time.sleep(LOOK_EVERY_S)
                shown.refresh()
                if stop.number is not None and not passed_on:
                    passed_on = True
                    for started in running:
                        started.process.send_signal(stop.number)
                for started in [s for s in running if s.process.poll() is not None]:
                    running.remove(started)
                    free.append(started.slot)
                    failure = ended[started.job.number] = _end(started)
                    shown.end(started.job, failure, len(running))
        finally:
            for started in running:  # a second signal leaves no time to save
                started.process.kill()
                started.process.wait()
                shown.end(started.job, _end(started), 0)
    if stop.number is not None and (len(ended) < len(jobs) or any(ended.values())):
        raise SystemExit(EXIT_INTERRUPTED if stop.number == signal.SIGINT else EXIT_PREEMPTED)
    return ended


def _start(
    job: SweepJob, slot: Slot, command: Callable[[SweepJob], list[str]], logs: Path
) -> _Started:
    log = job.folder / "log.txt" if job.folder else logs / f"job-{job.number}.txt"
    extra = {"LEXP_SWEEP_JOBS": "1"}
    if slot.gpu is not None:
        extra["CUDA_VISIBLE_DEVICES"] = slot.gpu
    threads = os.environ.get("OMP_NUM_THREADS", str(slot.n_threads))
    make_folder(log.parent)
    with open_to_append(log) as file:
        process = subprocess.Popen(
            lexp_command(*command(job)),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**child_environment(), **extra, "OMP_NUM_THREADS": threads},
            # Ctrl-C must reach only this process, which passes it on once; twice would not save.
            process_group=0,
        )
    return _Started(job, slot, process, log)


def _end(started: _Started) -> JobFailed | None:
    """Return the failure of a job that has ended, if it is one.

    Write the status of a killed run, which could not do so.
    """
    job, code = started.job, started.process.returncode
    if code == 0:
        return None
    if code < 0:
        name = signal.Signals(-code).name
        reason = f"killed by {name}"
        reason += ", most likely out of memory" if name == "SIGKILL" else ""
        failure = JobFailed(f"{job.name}: {reason}; log: {started.log}")
    else:
        reason = _last_line(started.log)
        failure = JobFailed(f"{job.name}: exit code {code}: {reason}", code)
    if job.folder:
        status.close(job.folder, reason)
    failure.reported = True
    return failure


def _last_line(log: Path) -> str:
    """Return the last line of a job's log, without the prefix of messages."""
    with contextlib.suppress(OSError):
        lines = read_own(log).decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "").removeprefix("lexp: ")
    return ""
