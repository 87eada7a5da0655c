"""Select the sweep's jobs to start, skipping those done, running or queued."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from lexp.config.validation import read_composed_train
from lexp.runs import status
from lexp.runs.locks import refuse_without_locks
from lexp.runs.run import run_folder
from lexp.runs.status import Status
from lexp.system.errors import Busy, LexpError
from lexp.system.files import make_folder, remove_empty_folder, remove_file
from lexp.system.output import say
from lexp.system.text import counted


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep: its overrides, and its run folder if it trains."""

    number: int
    overrides: tuple[str, ...]
    folder: Path | None
    n_steps: int | None = None

    @property
    def name(self) -> str:
        """Return the job's name for messages."""
        return self.folder.name if self.folder else f"job {' '.join(self.overrides)}"


def make_jobs(
    word: str,
    overrides: Sequence[Sequence[str]],
    first: int,
    load: Callable[[list[str]], DictConfig],
) -> list[SweepJob]:
    """Return the jobs of a sweep of `lexp WORD`. load: composes a config, without Hydra's keys."""
    jobs = []
    for number, words in enumerate(overrides, first):
        folder = n_steps = None
        if word == "train":
            settings = read_composed_train(load(list(words)))
            folder = run_folder(settings.study_folder, settings.raw)
            n_steps = settings.n_steps
        jobs.append(SweepJob(number, tuple(words), folder, n_steps))
    return jobs


def left_to_do(jobs: list[SweepJob]) -> list[SweepJob]:
    """Return the jobs to start; print for each of the others why it is skipped.

    StorageError if a run could not be locked.
    """
    left: list[SweepJob] = []
    seen: set[Path] = set()
    waiting = slurm_jobs()
    for job in jobs:
        reason = _why_not(job, seen, waiting)
        if reason:
            say(f"{job.folder} {reason}")
        else:
            left.append(job)
        if job.folder:
            seen.add(job.folder)
    for study in {job.folder.parent for job in left if job.folder}:
        refuse_without_locks(make_folder(study))  # once, and not in each job
    noun = "run" if all(job.folder for job in jobs) else "job"
    say(f"a sweep of {counted(len(jobs), noun)}, {len(left)} to do")
    return left


def _why_not(job: SweepJob, seen: set[Path], waiting: set[str] | None) -> str:
    """Return why a job is skipped; "" if it must start.

    waiting: the jobs that SLURM holds; None if it does not answer.
    """
    if job.folder is None or not job.folder.is_dir():
        return ""
    if job.folder in seen:
        return "is requested twice; started once"
    now = status.judge(job.folder)
    if now.state == status.DONE:
        return "is complete, nothing to do"
    where = f"job {now.slurm_job}" if now.slurm_job else f"process {now.pid} on {now.host}"
    if now.state == status.RUNNING:
        return f"is being trained by {where}; skipped"
    if waiting is None and now.slurm_job and now.state in (status.QUEUED, status.PREEMPTED):
        return f"may be queued as SLURM job {now.slurm_job}, but squeue does not answer; skipped"
    if waiting and now.slurm_job in waiting:
        return f"is queued as SLURM job {now.slurm_job}; skipped"
    if now.state == status.QUEUED and now.pid not in (None, os.getpid()):
        return f"is queued by {where}; skipped"
    return ""


def refuse_unfinished(jobs: list[SweepJob], started: list[SweepJob]) -> None:
    """Raise Busy, at the end of a sweep, for runs that were left to others and are not done yet."""
    own = {job.folder for job in started}
    others = dict.fromkeys(job.folder for job in jobs if job.folder and job.folder not in own)
    unfinished = [f.name for f in others if status.judge(f).state != status.DONE]
    if unfinished:
        more = f" and {len(unfinished) - 3} more" if len(unfinished) > 3 else ""
        raise Busy(
            f"{len(unfinished)} of {len(jobs)} runs are not done, others train or queue them: "
            f"{', '.join(unfinished[:3])}{more}; repeat the command later (a run whose process has "
            f"ended can be started after {status.SILENT_S:.0f} s)"
        )


def slurm_jobs() -> set[str] | None:
    """Return `ask_slurm`, or an empty set on a machine without SLURM."""
    return set() if shutil.which("squeue") is None else ask_slurm()


def ask_slurm() -> set[str] | None:
    """Return the user's queued and running SLURM jobs, as 12 or 12_3; None without an answer."""
    command = ["squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%i"]
    try:
        answer = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(answer.stdout.split()) if answer.returncode == 0 else None


@contextlib.contextmanager
def queued(jobs: list[SweepJob]) -> Iterator[None]:
    """Mark jobs as queued by this process while the block runs; then unmark those not started."""
    for job in jobs:
        enqueue(job, Status(status.QUEUED, pid=os.getpid(), host=socket.gethostname()))
    try:
        yield
    finally:
        for job in jobs:
            if job.folder:
                _take_back(job.folder)


def enqueue(job: SweepJob, waiting: Status) -> None:
    """Mark a run as queued; keep the number of steps that it has done."""
    if job.folder is None:
        return
    make_folder(job.folder)
    before = None
    with contextlib.suppress(LexpError):  # a damaged file is replaced
        before = status.read(job.folder)
    step = before.step if before else None
    status.write(job.folder, replace(waiting, step=step, n_steps=job.n_steps))


def _take_back(folder: Path) -> None:
    """Remove the mark of a run that this process queued and did not start."""
    with contextlib.suppress(LexpError, OSError):
        now = status.read(folder)
        if now and now.state == status.QUEUED and now.pid == os.getpid():
            remove_file(folder / "status.json")
            remove_empty_folder(folder)  # fails, as it should, if the folder holds anything else
