"""`lexp study plan=true`: jobs, tokens, FLOPs, time and disk of a study, before anything is run.

    training     6 P + 6 layers inner (L + 1)            FLOPs a token
    forward      2 P + 4 layers inner c(T)               FLOPs a token
    a fit        4 P + 12 layers inner c(T)              FLOPs a token, with gradients of scales

P: parameters that multiply something (all but untied token embeddings); inner: heads x head_dim; a
query of L sees (L + 1) / 2 keys on average, c(T) = (T + 1) / 2, or at most L under a pattern that
sees no more; layers: those with attention, as recurrent ones count by their parameters. Masked
models see all L, and their head is counted for every token. Time is FLOPs by the FLOPs a second of
training: `flops=`, else the study file's, else measured here in a few steps of each variant.
"""

import itertools
import math
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from lexp.attention import make_attend
from lexp.commands.analyze import AnalysisPlan
from lexp.commands.probe import ProbeRunPlan
from lexp.commands.run_parts import (
    layer_parameters,
    make_dims,
    make_entries,
    make_model,
    make_objective,
    make_positions,
    make_task,
    make_trunk,
    training_pattern,
)
from lexp.commands.run_plan import RunPlan
from lexp.commands.study.file import Study
from lexp.commands.study.jobs import StudyJob, is_read, names_by_variant, training_runs
from lexp.commands.train import optim_settings
from lexp.config.settings import Node, StudyConfig, TrainConfig
from lexp.data.reading import Windows
from lexp.display.table import Table, TableCell
from lexp.display.terminal import TableConsole
from lexp.extension import Fitted, Lengths
from lexp.model.layers import in_turns
from lexp.pattern import (
    Banded,
    BidirectionalBlockwise,
    BidirectionalWindow,
    Pattern,
    refuse_nothing_replaced,
    replaced,
)
from lexp.record.console import duration
from lexp.runs.run import Run, run_folder, variant
from lexp.scoring.memory import spelled
from lexp.system import runtime
from lexp.system.errors import ConfigError, NotDefined
from lexp.training.objective import CausalLM
from lexp.training.optim import make_optimizers
from lexp.training.speed import training_flops

VOCABULARIES = {"bytes": 256, "gpt2": 50257}
# Steps of a pilot go on for so long; heavier steps than this are not tried on a CPU.
PILOT_SECONDS, HEAVIEST_CPU = 1.0, 2e12
# Of a parameter in a checkpoint (weights and two moments in float32), and of a scored token.
BYTES_PARAMETER, BYTES_TOKEN = 12, 18


# A fit: its run's folder, the method's name, and the length.
FitKey = tuple[Path, str, int]


@dataclass(frozen=True)
class Weight:
    """The cost of a variant: parameters, those that multiply, layers x inner, FLOPs a second.

    Layers x inner are those of layers that compute attention, and count twice where queries see
    both sides: that many keys more on average. trained: the pattern of training.
    """

    n_parameters: int
    n_active: int
    attention: int
    train_len: int
    n_layers: int
    trained: Pattern
    speed: float

    def training(self) -> float:
        """Return the FLOPs of a token in training."""
        return training_flops(self.n_active, self.attention, self.train_len)

    def forward(self, length: int, method: Pattern, backward: bool = False) -> float:
        """Return the FLOPs of a token in a window under a method; 0 where it is not defined.

        backward: with a backward pass through frozen weights, which has the gradients of what a
        layer reads alone; those of attention have two factors for each product.
        """
        try:
            refuse_nothing_replaced(self.trained, method)
        except NotDefined:
            return 0.0
        turns = in_turns(replaced(self.trained, method).turns, self.n_layers)
        keys = [mean_keys(own, self.train_len, length) for own in turns if own.attends]
        of_weights, of_attention = (4, 12) if backward else (2, 4)
        attention = self.attention * sum(keys) / max(1, len(keys))
        return of_weights * self.n_active + of_attention * attention


def mean_keys(pattern: Pattern, train_len: int, length: int) -> float:
    """Return about how many keys at one side the queries of a window see on average."""
    everything = (length + 1) / 2
    if isinstance(pattern, BidirectionalBlockwise | BidirectionalWindow):
        return min(everything, train_len)
    fitted = pattern.fit(train_len, length)
    if not isinstance(fitted, Banded) or fitted.lookback is None:
        return everything
    return min(everything, fitted.lookback + (fitted.period + 1) / 2)


# A run that a study trains, and its cost.
WeighedRun = tuple[TrainConfig, Weight]


@dataclass
class StageCost:
    """The cost of one stage: jobs, jobs done, tokens read, FLOPs, seconds (NaN: unknown), bytes."""

    label: str
    n_jobs: int = 0
    n_done: int = 0
    n_tokens: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    n_bytes: float = 0.0


def print_cost(
    study: Study, jobs: list[StudyJob], settings: StudyConfig, rich: TableConsole
) -> None:
    """Print the table; nothing is trained, but for the steps that are timed."""
    flops = settings.flops or study.flops
    names, weights = names_by_variant(jobs), dict[str, Weight]()
    weighed: list[WeighedRun] = []
    for run in training_runs(jobs):
        key = variant(run.raw)
        if key not in weights:
            weights[key] = weigh(run, flops)
        weighed.append((run, weights[key]))
    needs, fits = [], set[FitKey]()
    for stage in study.stages:
        need = StageCost(f"{stage.number} {stage.command}")
        for job in (job for job in jobs if job.stage == stage):
            need.n_jobs += 1
            if isinstance(job.plan, TrainConfig):
                _add_training(need, job.plan, weights[variant(job.plan.raw)])
            elif isinstance(job.plan, RunPlan):
                read = [(run, weight) for run, weight in weighed if is_read(job.plan, run)]
                _add_reading(need, job.plan, read)
                _add_fits(need, job.plan, read, fits)
        needs.append(need)
    rich.table(_table(study, needs))
    models = ", ".join(
        f"{name} ({weights[key].n_parameters / 1e6:.3g}M)" for key, name in names.items()
    )
    by = (
        f"{flops:.3g} FLOPs a second" if flops else "what a few training steps took on this machine"
    )
    lines = [
        f"Runs: {models}.",
        f"Time: FLOPs by {by}; evaluation as fast as training, analyses take longer than that.",
        f"The study says: {study.time or 'nothing about its time'}.",
    ]
    if any(math.isnan(need.seconds) for need in needs):
        lines.append("?: a step is too heavy to be tried on this CPU; name a speed with flops=")
    rich.lines(*lines)


def _add_training(need: StageCost, run: TrainConfig, weight: Weight) -> None:
    need.n_bytes += weight.n_parameters * BYTES_PARAMETER * (2 + len(run.kept_steps))
    if Run(run_folder(run.study_folder, run.raw)).is_done:
        need.n_done += 1
        return
    n_tokens = run.n_steps * run.batch_tokens
    need.n_tokens += n_tokens
    need.flops += n_tokens * weight.training()
    need.seconds += n_tokens * weight.training() / weight.speed


def _add_reading(need: StageCost, plan: RunPlan, weighed: list[WeighedRun]) -> None:
    """Add the forward passes of an evaluation, a probe or an analysis over all its runs."""
    forward = cache(Weight.forward)  # seeds of a variant cost the same
    for run, weight in weighed:
        task = make_task(run.dataset)
        n_times = _n_checkpoints(plan.checkpoints, len(run.kept_steps))
        if isinstance(plan, AnalysisPlan):
            states = plan.config.states
            n_times = n_times * ("trained" in states) + ("random" in states)
            n_times *= len(plan.instruments)
        for method in plan.methods:
            for length in plan.problem_lengths(task) if task else plan.lengths:
                n_seen = task.row_len(length) if task else length
                per_token = forward(weight, n_seen, method.pattern)
                if not per_token:
                    continue  # not defined, so nothing is read
                n_scored, n_read = _tokens(plan, n_seen, is_task=task is not None)
                flops = n_times * n_read * per_token
                need.n_tokens += n_times * n_read
                need.flops += flops
                need.seconds += flops / weight.speed
                need.n_bytes += n_times * n_scored * BYTES_TOKEN


def _add_fits(
    need: StageCost,
    plan: RunPlan,
    weighed: list[WeighedRun],
    counted: set[FitKey],
) -> None:
    """Add the steps of the fits that a stage needs and no stage before it.

    counted: those of the stages before, to which this one's are added.
    """
    for (run, weight), method in itertools.product(weighed, plan.methods):
        extension = method.extension
        if not isinstance(extension, Fitted) or type(make_objective(run)) is not CausalLM:
            continue
        if make_task(run.dataset):
            continue  # not defined
        n_times = _n_checkpoints(plan.checkpoints, len(run.kept_steps))
        n_windows = n_times * extension.n_steps * extension.windows_of_step
        for length in plan.lengths:
            fit_len = extension.length_of_fit(Lengths(run.train_len, length, method.longest))
            key = run_folder(run.study_folder, run.raw), method.label, fit_len
            per_token = weight.forward(fit_len, method.pattern, extension.takes_gradients)
            if key in counted or not per_token:
                continue
            counted.add(key)
            need.n_tokens += n_windows * fit_len
            need.flops += n_windows * fit_len * per_token
            need.seconds += n_windows * fit_len * per_token / weight.speed


def _n_checkpoints(selection: str | tuple[int, ...], n_kept: int) -> int:
    if isinstance(selection, tuple):
        return len(selection)
    return 1 if selection == "last" else max(n_kept, 1)


def _tokens(plan: RunPlan, length: int, is_task: bool) -> tuple[float, float]:
    """Return the tokens of a run that are scored and read at a length by one method."""
    if isinstance(plan, AnalysisPlan):
        return 0.0, float(plan.config.texts * length)
    if is_task:
        # About half of a row is the answer.
        return plan.examples * length / 2, float(plan.examples * length)
    if isinstance(plan, ProbeRunPlan):
        n = plan.probes.samples * length * len(plan.probes.probes)
        return float(n), 2.0 * n  # each with its control
    if plan.max_tokens is None:
        raise ConfigError("plan: max_tokens=null reads the whole test split, of unknown size")
    scored, read = 0.0, 0.0
    for protocol in plan.protocols:
        factor = 1.0
        if protocol.name == "sliding":
            factor = length / (getattr(protocol, "stride", None) or max(1, length // 4))
        elif protocol.name == "fixed":
            factor = length / getattr(protocol, "block", length)
        scored += plan.max_tokens * getattr(protocol, "percent", 100) / 100
        read += plan.max_tokens * factor
    return scored, read


def _table(study: Study, needs: list[StageCost]) -> Table:
    total = StageCost("all")
    for need in needs:
        for name in ("n_jobs", "n_done", "n_tokens", "flops", "seconds", "n_bytes"):
            setattr(total, name, getattr(total, name) + getattr(need, name))
    rows = []
    for need in [*needs, total]:
        took = "?" if math.isnan(need.seconds) else duration(need.seconds)
        hours = "?" if math.isnan(need.seconds) else f"{need.seconds / 3600:.3g}"
        texts = (
            need.label, str(need.n_jobs), str(need.n_done), _tokens_spelled(need.n_tokens),
            f"{need.flops:.3g}", took, hours, spelled(need.n_bytes),
        )  # fmt: skip
        rows.append(tuple(map(TableCell, texts)))
    heads = ("stage", "jobs", "done", "tokens", "FLOPs", "time", "hours", "disk")
    return Table(f"What study {study.name} takes, {study.scale}", heads, tuple(rows), 1)


def _tokens_spelled(n: float) -> str:
    return f"{n / 1e9:.4g}B" if n >= 1e9 else f"{n / 1e6:.4g}M"


def weigh(settings: TrainConfig, flops: float | None) -> Weight:
    """Return the parameters of a run's model and the speed of its training."""
    dims, n_vocabulary = make_dims(settings), vocabulary(settings.tokenizer)
    total = n_parameters(settings, n_vocabulary)
    n_rows = n_vocabulary + make_objective(settings).n_extra
    # Weights that layers share multiply in each of them.
    blocks = layer_parameters(dims, make_trunk(settings), make_entries(settings))
    again = sum(blocks[1:]) if dims.share_layers else 0
    looked_up = 0 if settings.trunk.tied_embeddings else n_rows * dims.d_model
    active = total + again - looked_up
    trained = training_pattern(settings)
    sides = 2 if trained.two_sided else 1
    layers = in_turns(make_entries(settings), dims.n_layers)
    attention = sides * sum(e.pattern.attends for e in layers) * dims.n_heads * dims.head_dim
    weight = Weight(
        total, active, attention, settings.train_len, dims.n_layers, trained, flops or math.nan
    )
    return weight if flops else replace(weight, speed=pilot(settings, weight))


def n_parameters(settings: TrainConfig, n_vocabulary: int) -> int:
    """Return the parameters of a run's model, which may be too large to be made here."""
    dims, trunk = make_dims(settings), make_trunk(settings)
    of_schemes = sum(p.numel() for scheme in make_positions(settings) for p in scheme.parameters())
    n_rows = n_vocabulary + make_objective(settings).n_extra
    with torch.device("meta"):
        of_norm = sum(p.numel() for p in trunk.norm.make(dims.d_model).parameters())
    n_blocks = 1 if dims.share_layers else dims.n_layers
    of_layers = sum(layer_parameters(dims, trunk, make_entries(settings))[:n_blocks])
    n_tables = 1 if trunk.tied_embeddings else 2
    return n_tables * n_rows * dims.d_model + of_norm + of_layers + of_schemes


def vocabulary(tokenizer: Node) -> int:
    """Return the size of a vocabulary without loading it; ConfigError where it is not known."""
    size = tokenizer.values.get("vocab_size") or VOCABULARIES.get(tokenizer.name)
    if size is None:
        raise ConfigError(f"plan: how many tokens tokenizer={tokenizer.name} has is not known")
    return int(size)


def pilot(settings: TrainConfig, weight: Weight) -> float:
    """Return the FLOPs a second of training steps here; NaN if a step would take too long."""
    device = runtime.choose_device(settings.device)
    train_len = settings.train_len
    batch = settings.batch_tokens // settings.accumulation // train_len
    if device.type == "cpu" and weight.training() * batch * train_len > HEAVIEST_CPU:
        return math.nan
    runtime.prepare_process()
    n_vocabulary = vocabulary(settings.tokenizer)
    model = make_model(settings, n_vocabulary).to(device)
    optimizers = make_optimizers(model, optim_settings(settings))
    attend = make_attend(training_pattern(settings), train_len, model.schemes, device)
    context = runtime.autocast(runtime.choose_precision(settings.precision, device), device)
    objective = make_objective(settings)
    total = objective.loss(model)
    ids = torch.randint(n_vocabulary, (batch, train_len + 1))
    sample = objective.make_batch(Windows(ids.numpy()), 0, settings.seed, n_vocabulary)
    inputs = [tensor.to(device) for tensor in sample.tensors]

    def step() -> None:
        with context:
            loss = total(*inputs, attend) / sample.n_targets
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        loss.item()  # waits for the device

    step()
    started, n_steps = time.perf_counter(), 0
    while time.perf_counter() - started < PILOT_SECONDS:
        step()
        n_steps += 1
    seconds = (time.perf_counter() - started) / n_steps
    return weight.training() * batch * train_len / seconds
