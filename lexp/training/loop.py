"""The training loop: a budget in tokens, periodic validation and checkpoints, exact resumption."""

import functools
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from lexp.attention import (
    Attend,
    MakeAttend,
    RowLayout,
    WithinDocuments,
    fold_documents,
    make_attend,
)
from lexp.distributed import Engine, SingleProcess
from lexp.model.transformer import Transformer
from lexp.pattern import Pattern
from lexp.record import Console, EventFile, Metrics, NullLogger, WandbLogger
from lexp.runs import checkpoint
from lexp.system.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, Diverged
from lexp.system.runtime import StopRequest
from lexp.training.ahead import ahead_of_steps
from lexp.training.batches import BatchSource
from lexp.training.objective import Batch
from lexp.training.optim import OptimSettings, learning_rate, set_learning_rates
from lexp.training.validation import Validation, as_json

AttendOver = Callable[[int], Attend]  # attention made for a length


@dataclass(frozen=True)
class TrainSettings:
    """Length of training, batch sizes, and the intervals of other events, in steps.

    keep: steps whose checkpoints are never deleted. one_batch: all steps have the first's batch.
    """

    train_len: int
    n_steps: int
    batch_size: int
    accumulation: int
    optim: OptimSettings
    save_every: int
    keep: frozenset[int]
    eval_every: int
    one_batch: bool = False

    @property
    def step_tokens(self) -> int:
        """Return the number of tokens in one optimiser step."""
        return self.batch_size * self.train_len


@dataclass
class TrainingJob:
    """The parts of a training run and its state; `step` counts finished optimiser steps.

    pattern: which keys a query sees in training. group: the ranks that train the model together, or
    one process. engine: how the ranks hold the model. make_attend: computes attention in training
    steps; validation uses the default. mirrors: show the numbers of metrics.jsonl elsewhere.
    after_step: called after each.
    """

    group: SingleProcess
    engine: Engine
    model: Transformer
    pattern: Pattern
    optimizers: tuple[Optimizer, ...]
    batches: BatchSource
    validation: Validation
    settings: TrainSettings
    autocast: AbstractContextManager
    checkpoints: Path
    metrics: Metrics | NullLogger
    mirrors: tuple[WandbLogger | EventFile | NullLogger, ...]
    stop: StopRequest
    make_attend: MakeAttend = make_attend
    after_step: Callable[[], None] = lambda: None
    step: int = 0
    seconds: float = 0.0
    last_validation: dict[str, float | str] = field(default_factory=dict)


def train(job: TrainingJob, console: Console | NullLogger) -> None:
    """Train from `job.step` to the end and save checkpoints; SystemExit if a signal stops it."""
    settings = job.settings
    device = next(job.model.parameters()).device

    @functools.cache
    def attend_over(length: int) -> Attend:
        return job.make_attend(job.pattern, length, job.model.schemes, device)

    attend_over(settings.train_len)  # NotDefined before the first step
    n_steps = settings.n_steps
    steps = itertools.repeat(0, n_steps) if settings.one_batch else range(n_steps)
    with ahead_of_steps(job.batches, itertools.islice(steps, job.step, None)) as batches:
        _train_steps(job, console, batches, attend_over, device)


def _train_steps(
    job: TrainingJob,
    console: Console | NullLogger,
    batches: Iterator[Batch],
    attend_over: AttendOver,
    device: torch.device,
) -> None:
    """Do the steps of `train`. batches: of the steps that are left, in order."""
    settings, n_steps = job.settings, job.settings.n_steps
    while job.step < n_steps:
        started = time.perf_counter()
        rate = learning_rate(job.step, n_steps, settings.optim)
        loss, norm = _step(job, next(batches), attend_over, rate, device)
        job.step += 1
        job.after_step()
        job.seconds += time.perf_counter() - started
        tokens = job.step * settings.step_tokens
        values = {"loss": loss, "lr": rate, "grad_norm": norm, "tokens": tokens}
        _log(job, "train", values)
        console.advance(settings.step_tokens, f"loss {loss:.3f}")
        keeping = job.step in settings.keep
        # A checkpoint that is kept is evaluated later, and compared with its validation loss.
        if job.step % settings.eval_every == 0 or job.step == n_steps or keeping:
            _validate(job, console)
        signalled = job.group.broadcast(job.stop.number)
        stopping = signalled is not None and job.step < n_steps
        if job.step % settings.save_every == 0 or job.step == n_steps or stopping or keeping:
            save(job)
        if stopping:
            console.say(f"stopped at step {job.step}, saved; the same command resumes from there")
            job.stop.number = signalled  # another rank may have received it
            interrupted = signalled == signal.SIGINT
            raise SystemExit(EXIT_INTERRUPTED if interrupted else EXIT_PREEMPTED)


def save(job: TrainingJob) -> None:
    """Write a checkpoint of the finished step; Diverged, without writing, if not finite."""
    tensors = job.engine.tensors(job.optimizers)
    if not job.group.is_rank_zero:
        return
    bad = [name for name, tensor in tensors.model.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise Diverged(f"{bad[0]} is not finite after step {job.step}; {_kept(job)}")
    state: dict[str, Any] = {
        "step": job.step,
        "tokens": job.step * job.settings.step_tokens,
        "metrics_bytes": job.metrics.sync(),
        "seconds": round(job.seconds, 3),
        "validation": job.last_validation,
    }
    keep = job.step in job.settings.keep
    checkpoint.save(job.checkpoints, tensors, state, keep)


def resume(job: TrainingJob, saved: checkpoint.Checkpoint) -> None:
    """Continue from a checkpoint whose parameters the model already has.

    The step number determines the order of data and the learning rate.
    """
    checkpoint.load_optimizer(saved, job.model, job.optimizers, job.engine.place)
    job.step = saved.step
    job.seconds = saved.state["seconds"]
    job.last_validation = saved.state["validation"]


def _step(
    job: TrainingJob, batch: Batch, attend_over: AttendOver, rate: float, device: torch.device
) -> tuple[float, float]:
    """Do one optimiser step; return loss and gradient norm.

    attend_over: makes attention for rows of a length, once for each.
    Diverged, before the update, if one of them is not finite.
    """
    settings, n_parts = job.settings, job.settings.accumulation
    part_losses = []
    for number, part in enumerate(batch.parts(n_parts), 1):
        inputs = [job.group.shard(tensor).to(device) for tensor in part.tensors]
        rows = _attention(job, attend_over, part, device)
        with job.engine.accumulate(is_last=number == n_parts):
            with job.autocast:
                nats = job.engine.loss(*inputs, *rows)
            # The mean over this rank's targets; the mean of the ranks' means is the batch's.
            nats = nats / (batch.n_targets / job.group.size)
            nats.backward()
        part_losses.append(nats.detach())
    # Read together, because each reading waits for the GPU.
    clipped = job.engine.clip(settings.optim.clip)
    *losses, norm = torch.stack([*part_losses, clipped]).tolist()
    loss = job.group.mean(sum(losses))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        _zero_grad(job)
        raise Diverged(
            f"loss {loss}, gradient norm {norm} at step {job.step + 1} of {settings.n_steps} "
            f"(lr {rate:.2e}); {_kept(job)}"
        )
    set_learning_rates(job.optimizers, job.step, settings.n_steps, settings.optim)
    for optimizer in job.optimizers:
        optimizer.step()
    _zero_grad(job)
    return loss, norm


def _zero_grad(job: TrainingJob) -> None:
    for optimizer in job.optimizers:
        optimizer.zero_grad()


def _attention(
    job: TrainingJob, attend_over: AttendOver, part: Batch, device: torch.device
) -> tuple[Attend] | tuple[Attend, RowLayout]:
    """Return the attention of a part's rows on this rank, and their layout if it is their own."""
    attend = attend_over(part.tensors[0].shape[1])
    if part.positions is not None:
        return attend, RowLayout(positions=part.positions.to(device))
    if part.starts is None:
        return (attend,)
    documents = fold_documents(job.group.shard(part.starts)).to(device)
    return WithinDocuments(attend_over, documents), RowLayout(documents=documents)


def _kept(job: TrainingJob) -> str:
    """Return what an error message says about the last checkpoint."""
    saved = checkpoint.latest(job.checkpoints)
    return f"the checkpoint of step {saved.step} is kept" if saved else "nothing was saved yet"


def _validate(job: TrainingJob, console: Console | NullLogger) -> None:
    """Measure and print what validation measures."""
    job.model.eval()  # schemes that draw positions do so otherwise in training
    values = job.validation.measure(job.model, job.pattern, job.autocast)
    job.model.train()
    job.last_validation = as_json(values)  # a loss that is not finite is no reason to stop
    _log(job, "validation", values)
    console.say(f"step {job.step}: {job.validation.in_words(values)}")


def _log(job: TrainingJob, kind: str, values: dict[str, Any]) -> None:
    job.metrics.log(event=kind, step=job.step, **values)
    for mirror in job.mirrors:
        mirror.log(job.step, {f"{kind}/{key}": value for key, value in values.items()})
