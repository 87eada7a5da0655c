"""What rank 0 does for all ranks of a training: it holds the folder, writes, and shows."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from lexp.distributed import SingleProcess
from lexp.record import Console, Metrics, NullLogger, RunLabel, WandbLogger, start_wandb
from lexp.runs import checkpoint
from lexp.runs.heartbeat import Heartbeat, status_heartbeat
from lexp.runs.locks import locked
from lexp.runs.run import Run, warn_of_other_versions
from lexp.system.errors import LexpError
from lexp.system.files import clean, leftovers
from lexp.training import loop


@contextlib.contextmanager
def run_lock(
    settings: dict[str, Any], folder: Path, n_steps: int, group: SingleProcess
) -> Iterator[Heartbeat | NullLogger]:
    """Within: rank 0 holds the run folder, tidied, and keeps its status fresh."""
    if not group.is_rank_zero:
        yield NullLogger()
        return
    limit_s = math.inf if settings["stall_min"] is None else 60 * settings["stall_min"]
    with locked(folder):
        clean(folder)
        with status_heartbeat(folder, n_steps, limit_s) as heartbeat:
            yield heartbeat


def tidy(folder: Path) -> None:
    """Clean the folder of a complete run that was killed while it said so."""
    if leftovers(folder):
        with contextlib.suppress(LexpError), locked(folder):
            clean(folder)


def newest(run: Run, group: SingleProcess) -> checkpoint.Checkpoint | None:
    """The newest whole checkpoint, verified by each rank; rank 0 says which."""
    found = checkpoint.latest(run.checkpoints) if group.is_rank_zero else None
    if found and group.is_rank_zero:
        warn_of_other_versions(run)
    step = group.broadcast(found.step if found else None)
    if found is None and step is not None:
        (found,) = checkpoint.at_steps(run.checkpoints, [step])
    return found


def records(
    settings: dict[str, Any],
    folder: Path,
    group: SingleProcess,
    found: checkpoint.Checkpoint | None,
) -> tuple[Metrics | NullLogger, WandbLogger | NullLogger]:
    """Return the loggers of metrics.jsonl and wandb: no-op ones on ranks other than 0."""
    if not group.is_rank_zero:
        return NullLogger(), NullLogger()
    metrics = Metrics(folder / "metrics.jsonl", found.state["metrics_bytes"] if found else 0)
    label = RunLabel(settings["name"], folder.name, "train")
    return metrics, start_wandb(settings["wandb"], folder, label, settings)


def progress(job: loop.TrainingJob, folder: Path, machine: str) -> Console | NullLogger:
    """Print a description of the run and return its progress display; a no-op on other ranks."""
    if not job.group.is_rank_zero:
        return NullLogger()
    print(_description(job, folder, machine), file=sys.stderr, flush=True)
    number, n_jobs = _place_in_sweep()
    title = f"run {number} of {n_jobs}" if n_jobs > 1 else "training"
    step_tokens = job.settings.step_tokens
    total, done = job.settings.n_steps * step_tokens, job.step * step_tokens
    return Console(title, total, done, following=n_jobs - number)


def _description(job: loop.TrainingJob, folder: Path, machine: str) -> str:
    """Return what is about to run, in three or four lines."""
    steps, batches = job.settings, job.batches
    n_parameters = sum(p.numel() for p in job.model.parameters())
    total = steps.n_steps * steps.step_tokens
    lines = [
        f"{folder} ({f'from step {job.step}' if job.step else 'from the start'})",
        f"  {n_parameters / 1e6:.2f}M parameters, {type(job.model.position).__name__}, {machine}",
        f"  {total / 1e6:.2f}M tokens in {steps.n_steps} steps of {steps.batch_size} x "
        f"{steps.train_len}, {total / (batches.n_windows * steps.train_len):.2f} epochs",
    ]
    if batches.n_left_out_tokens:
        lines.append(
            f"  left out: {batches.n_left_out_tokens} tokens in documents shorter than "
            f"{steps.train_len + 1}"
        )
    return "\n".join(lines)


def _place_in_sweep() -> tuple[int, int]:
    """Return the number of this job, from 1, and how many its sweep has; 1 and 1 outside a sweep.

    Jobs that run side by side count as sweeps of their own: they do not follow one another.
    """
    n_jobs = int(os.environ.get("LEXP_SWEEP_JOBS", "1"))
    if n_jobs <= 1 or not HydraConfig.initialized():
        return 1, 1
    return HydraConfig.get().job.num + 1, n_jobs
