"""Run jobs in SLURM through submitit: queue them as one array, wait, and report each."""

import shlex
import subprocess
import sys
import time
from dataclasses import fields
from typing import Any

from lexp.commands.launch import hold_signals
from lexp.commands.launch.plan import SweepJob, ask_slurm, enqueue
from lexp.runs import status
from lexp.runs.status import Status
from lexp.system.errors import ConfigError, JobFailed
from lexp.system.output import say

LOOK_EVERY_S = 1.0
ASK_EVERY_S = 5.0
# A job may leave SLURM's queue a little before its result is visible here (network file systems).
GRACE_S = 10.0


def submit(
    function: Any, jobs: list[SweepJob], arguments: list[tuple], params: dict[str, Any]
) -> list:
    """Queue function(*arguments) for each job; return submitit's handles.

    ConfigError, with the reason, if sbatch refuses.
    """
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    shared = {field.name for field in fields(BaseQueueConf)}
    executor = submitit.AutoExecutor(
        folder=params["submitit_folder"],
        cluster="slurm",
        slurm_max_num_timeout=params["max_num_timeout"],
        slurm_python=shlex.join([sys.executable, "-I", "-S", hold_signals.__file__]),
    )
    parameters = {
        key if key in shared else f"slurm_{key}": value
        for key, value in params.items()
        if key not in ("submitit_folder", "max_num_timeout")
    }
    executor.update_parameters(**parameters)
    for job in jobs:
        enqueue(job, Status(status.QUEUED))
    try:
        handles = executor.map_array(function, *zip(*arguments, strict=True))
    except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
        for job in jobs:
            _close(job, "SLURM refused the job")
        output = getattr(error, "output", None) or str(error)
        raise ConfigError(f"sbatch refused the jobs: {_last_line(output)}") from None
    for job, handle in zip(jobs, handles, strict=True):
        _note_id(job, handle.job_id)
    ids = " to ".join(dict.fromkeys([handles[0].job_id, handles[-1].job_id]))
    n_jobs = f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}"
    say(f"queued {n_jobs} in SLURM: {ids}")
    return handles


def _note_id(job: SweepJob, slurm_job: str) -> None:
    """Write the job's id to the status of a run, unless the run has started by now."""
    if job.folder:
        now = status.read(job.folder)
        if now is not None and now.state == status.QUEUED and not now.slurm_job:
            enqueue(job, Status(status.QUEUED, slurm_job=slurm_job))


def collect(jobs: list[SweepJob], handles: list) -> list[Any]:
    """Wait for all jobs; return in their order what each returned, or JobFailed.

    squeue says whether a job is still queued, not sacct as in submitit: sacct needs accounting, and
    without it the wait for a killed job would never end.
    """
    results: dict[int, Any] = {}
    gone_since: dict[int, float] = {}
    asked = time.monotonic()
    while len(results) < len(jobs):
        left = [n for n in range(len(jobs)) if n not in results]
        for n in left:
            if handles[n].paths.result_pickle.exists():
                results[n] = _result(jobs[n], handles[n])
            elif n in gone_since and time.monotonic() - gone_since[n] > GRACE_S:
                results[n] = _lost(jobs[n], handles[n])
        if time.monotonic() - asked >= ASK_EVERY_S:
            asked = time.monotonic()
            queued = ask_slurm()
            if queued is not None:
                for n in left:
                    if handles[n].job_id in queued:
                        gone_since.pop(n, None)
                    else:
                        gone_since.setdefault(n, asked)
        time.sleep(LOOK_EVERY_S)
    return [results[n] for n in range(len(jobs))]


def _result(job: SweepJob, handle: Any) -> Any:
    import submitit

    try:
        result = handle.task(0).results()[0]  # rank 0 answers for all ranks
    except submitit.core.utils.UncompletedJobError as error:
        lines = [line for line in str(error).splitlines() if "Error:" in line]
        reason = lines[-1].strip() if lines else _last_line(error)
        return _failure(job, f"SLURM job {handle.job_id}: {reason}; log: {handle.paths.stderr}")
    failure = result._return_value
    how = f"lexp: {job.name}: {failure}" if isinstance(failure, Exception) else f"done {job.name}"
    say(how)
    return result


def _lost(job: SweepJob, handle: Any) -> JobFailed:
    how = _what_slurm_says(handle.job_id)
    return _failure(
        job,
        f"SLURM job {handle.job_id} ended without a result{how}; log: {handle.paths.stderr}",
    )


def _failure(job: SweepJob, reason: str) -> JobFailed:
    _close(job, reason)
    failure = JobFailed(f"{job.name}: {reason}")
    say(f"lexp: {failure}")
    failure.reported = True
    return failure


def _close(job: SweepJob, reason: str) -> None:
    if job.folder:
        status.close(job.folder, reason)


def _what_slurm_says(slurm_job: str) -> str:
    """Return the state SLURM gave an ended job; "" when SLURM has forgotten it."""
    command = ["scontrol", "show", "job", "-o", slurm_job]
    answer = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    words = dict(word.split("=", 1) for word in answer.stdout.split() if "=" in word)
    if "JobState" not in words:
        return ""
    return f" ({words['JobState']}, exit code {words.get('ExitCode', 'unknown')})"


def _last_line(text: Any) -> str:
    lines = [line for line in str(text).splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def warn_without_accounting() -> None:
    """Warn that this cluster has no accounting: lexp does not need it, other tools may."""
    try:
        works = subprocess.run(["sacct", "-n", "-X", "-S", "now"], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        works = None
    if works is None or works.returncode:
        say("lexp: sacct does not answer; job states come from squeue and status.json")
