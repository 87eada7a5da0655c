"""What `lexp train` prints: what it is about to run, its progress, and the table of a profile."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig

from lexp.display.table import Table, TableCell
from lexp.display.terminal import table_console
from lexp.record import Console, NullLogger
from lexp.scoring.memory import spelled
from lexp.system.output import say
from lexp.training import loop
from lexp.training.profile import Profile
from lexp.training.speed import peak_flops, peak_memory, spelled_flops

N_OPERATORS = 12  # rows of the table of a profile


@dataclass(frozen=True)
class Machine:
    """What a run is trained on. token_flops: model FLOPs of a token in training."""

    device: torch.device
    precision: str
    parallel: str
    n_ranks: int
    token_flops: float

    def __str__(self) -> str:
        ranks = f", {self.n_ranks} ranks by {self.parallel}" if self.n_ranks > 1 else ""
        return f"{self.precision} on {self.device}{ranks}"

    def efficiency(self, tokens_per_s: float) -> list[str]:
        """Return model FLOPs a second, or MFU where the peak is known, and peak memory so far."""
        peak = peak_flops(self.device, self.precision)
        flops = spelled_flops(self.token_flops * tokens_per_s, peak and peak * self.n_ranks)
        return [flops, f"peak {spelled(peak_memory(self.device))}"]


def progress(job: loop.TrainingJob, folder: Path, machine: Machine) -> Console | NullLogger:
    """Print a description of the run and return its progress display; a no-op on other ranks."""
    if not job.group.is_rank_zero:
        return NullLogger()
    say(*_description(job, folder, machine))
    number, n_jobs = _place_in_sweep()
    title = f"run {number} of {n_jobs}" if n_jobs > 1 else "training"
    step_tokens = job.settings.step_tokens
    total, done = job.settings.n_steps * step_tokens, job.step * step_tokens
    return Console(title, total, done, following=n_jobs - number, efficiency=machine.efficiency)


def show_profile(profile: Profile, folder: Path) -> None:
    """Print the operators that take most of a step's time, and write the trace."""
    if not profile.is_complete:
        say("profile: training ended before the last step to record; nothing is shown")
        return
    operators = profile.operators()
    total = sum(operator.seconds for operator in operators) or 1.0
    rows = tuple(
        tuple(
            map(TableCell, (o.name, f"{o.n_calls}", f"{1000 * o.seconds:.1f}",
                            f"{o.seconds / total:.0%}"))
        )
        for o in operators[:N_OPERATORS]
    )  # fmt: skip
    heads = ("operator", "calls", "ms", "share")
    notes = (f"{profile.save_trace(folder)}: the trace, for https://ui.perfetto.dev",)
    title = "Time of the recorded steps"
    table_console().table(Table(title, heads, rows, notes=notes))


def _description(job: loop.TrainingJob, folder: Path, machine: Machine) -> list[str]:
    """Return what is about to run, in three or four lines."""
    steps = job.settings
    n_parameters = sum(p.numel() for p in job.model.parameters())
    total = steps.n_steps * steps.step_tokens
    data, *more = job.batches.in_words(total)
    return [
        f"{folder} ({f'from step {job.step}' if job.step else 'from the start'})",
        f"  {n_parameters / 1e6:.2f}M parameters, {job.model.title}, {machine}",
        f"  {total / 1e6:.2f}M tokens in {steps.n_steps} steps of {steps.batch_size} x "
        f"{steps.train_len}, {data}",
        *more,
    ]


def _place_in_sweep() -> tuple[int, int]:
    """Return the number of this job, from 1, and how many its sweep has; 1 and 1 outside a sweep.

    Jobs that run side by side count as sweeps of their own: they do not follow one another.
    """
    n_jobs = int(os.environ.get("LEXP_SWEEP_JOBS", "1"))
    if n_jobs <= 1 or not HydraConfig.initialized():
        return 1, 1
    return HydraConfig.get().job.num + 1, n_jobs
