"""What `lexp train` prints of a run: what is about to run, and how far it is."""

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from lexp.record import Console, NullLogger
from lexp.system.output import say
from lexp.training import loop


def progress(job: loop.TrainingJob, folder: Path, machine: str) -> Console | NullLogger:
    """Print a description of the run and return its progress display; a no-op on other ranks."""
    if not job.group.is_rank_zero:
        return NullLogger()
    say(*_description(job, folder, machine))
    number, n_jobs = _place_in_sweep()
    title = f"run {number} of {n_jobs}" if n_jobs > 1 else "training"
    step_tokens = job.settings.step_tokens
    total, done = job.settings.n_steps * step_tokens, job.step * step_tokens
    return Console(title, total, done, following=n_jobs - number)


def _description(job: loop.TrainingJob, folder: Path, machine: str) -> list[str]:
    """Return what is about to run, in three or four lines."""
    steps, batches = job.settings, job.batches
    n_parameters = sum(p.numel() for p in job.model.parameters())
    total = steps.n_steps * steps.step_tokens
    lines = [
        f"{folder} ({f'from step {job.step}' if job.step else 'from the start'})",
        f"  {n_parameters / 1e6:.2f}M parameters, {job.model.position.title}, {machine}",
        f"  {total / 1e6:.2f}M tokens in {steps.n_steps} steps of {steps.batch_size} x "
        f"{steps.train_len}, {total / (batches.n_windows * steps.train_len):.2f} epochs",
    ]
    if batches.n_left_out_tokens:
        lines.append(
            f"  left out: {batches.n_left_out_tokens} tokens in documents shorter than "
            f"{steps.train_len + 1}"
        )
    return lines


def _place_in_sweep() -> tuple[int, int]:
    """Return the number of this job, from 1, and how many its sweep has; 1 and 1 outside a sweep.

    Jobs that run side by side count as sweeps of their own: they do not follow one another.
    """
    n_jobs = int(os.environ.get("LEXP_SWEEP_JOBS", "1"))
    if n_jobs <= 1 or not HydraConfig.initialized():
        return 1, 1
    return HydraConfig.get().job.num + 1, n_jobs
