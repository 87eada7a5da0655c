"""Which jobs of a sweep there are to do: none that is done, runs, or waits elsewhere already."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lexp.config.schema import plain
from lexp.config.validation import read_train
from lexp.runs import status
from lexp.runs.run import run_folder
from lexp.runs.status import Status
from lexp.system.errors import LexpError
from lexp.system.files import make_folder


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep: what was typed for it, and the run folder if it trains."""

    number: int
    overrides: tuple[str, ...]
    folder: Path | None
    n_steps: int | None = None

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.folder.name if self.folder else f"job {' '.join(self.overrides)}"


def make_jobs(
    word: str,
    overrides: Sequence[Sequence[str]],
    first: int,
    load: Callable[[list[str]], DictConfig],
) -> list[SweepJob]:
    """The jobs of a sweep of `lexp WORD`; load composes a job's config from its overrides."""
    jobs = []
    for number, own in enumerate(overrides, first):
        folder = n_steps = None
        if word == "train":
            config = load(list(own))
            keys = [str(key) for key in config if key != "hydra"]
            settings = read_train(plain(OmegaConf.masked_copy(config, keys)))
            folder = run_folder(settings.study_folder, settings.raw)
            n_steps = settings.n_steps
        jobs.append(SweepJob(number, tuple(own), folder, n_steps))
    return jobs


def left_to_do(jobs: list[SweepJob]) -> list[SweepJob]:
    """The jobs to start; a line for each of the others says why it is not."""
    left: list[SweepJob] = []
    seen: set[Path] = set()
    waiting = slurm_jobs()
    for job in jobs:
        why = _why_not(job, seen, waiting)
        if why:
            print(f"{job.folder} {why}", file=sys.stderr)
        else:
            left.append(job)
        if job.folder:
            seen.add(job.folder)
    return left


def _why_not(job: SweepJob, seen: set[Path], waiting: set[str] | None) -> str:
    """Why a job need not be started; "" if it must. waiting: in SLURM; None: it does not say."""
    if job.folder is None or not job.folder.is_dir():
        return ""
    if job.folder in seen:
        return "is asked for twice"
    now = status.judge(job.folder)
    if now.state == status.DONE:
        return "is complete, nothing to do"
    where = f"job {now.slurm_job}" if now.slurm_job else f"process {now.pid} on {now.host}"
    if now.state == status.RUNNING:
        return f"is being trained by {where}, left alone"
    if waiting is None and now.slurm_job and now.state in (status.QUEUED, status.PREEMPTED):
        return f"may wait as job {now.slurm_job} in SLURM, which does not answer: left alone"
    if waiting and now.slurm_job in waiting:
        return f"waits in SLURM's queue as job {now.slurm_job}, left alone"
    if now.state == status.QUEUED and now.pid not in (None, os.getpid()):
        return f"is queued by {where}, left alone"
    return ""


def slurm_jobs() -> set[str] | None:
    """`ask_slurm`, but an empty set where there is no SLURM: None if there is and it is silent."""
    return set() if shutil.which("squeue") is None else ask_slurm()


def ask_slurm() -> set[str] | None:
    """The user's jobs that SLURM holds or runs, as 12 or 12_3; None if it does not answer."""
    command = ["squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%i"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(answer.stdout.split()) if answer.returncode == 0 else None


@contextlib.contextmanager
def queued(jobs: list[SweepJob]) -> Iterator[None]:
    """Within: runs not begun yet are `queued` by this process; afterwards they no longer are."""
    for job in jobs:
        enqueue(job, Status(status.QUEUED, pid=os.getpid(), host=socket.gethostname()))
    try:
        yield
    finally:
        for job in jobs:
            if job.folder:
                _take_back(job.folder)


def enqueue(job: SweepJob, waiting: Status) -> None:
    """Write that a run waits, with the steps it has behind it, if any."""
    if job.folder is None:
        return
    make_folder(job.folder)
    before = None
    with contextlib.suppress(LexpError):  # a damaged file is replaced
        before = status.read(job.folder)
    step = before.step if before else None
    status.write(job.folder, replace(waiting, step=step, n_steps=job.n_steps))


def _take_back(folder: Path) -> None:
    """A run that this process did not come to is not queued any more."""
    with contextlib.suppress(LexpError, OSError):
        now = status.read(folder)
        if now and now.state == status.QUEUED and now.pid == os.getpid():
            (folder / "status.json").unlink()
            folder.rmdir()  # refused if there is something else in it
