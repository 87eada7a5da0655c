"""`lexp study plan=true`: jobs, tokens, FLOPs, time and disk of a study, before anything is run.

    training     6 P + 6 layers inner (L + 1)            FLOPs a token
    forward      2 P + 4 layers inner c(T)               FLOPs a token

P: parameters that multiply something (all but the token embeddings); inner: heads x head_dim; a
query of L sees (L + 1) / 2 keys on average, c(T) = (T + 1) / 2, or at most L under a pattern that
sees no more. Masked models see all L, and their head is counted for every token. Time is FLOPs by
the FLOPs a second of training: `flops=`, else the study file's, else measured here in a few steps
of each variant.
"""

import math
from dataclasses import dataclass
from typing import Any

from rich.console import Console as Rich

from lexp.commands.load_runs import make_methods, make_protocols
from lexp.commands.study.cost import Weight, weigh
from lexp.commands.study.file import Study
from lexp.commands.study.jobs import StudyJob, names_by_variant, wanted
from lexp.display.table import Table, TableCell, to_rich
from lexp.evaluate import Method
from lexp.pattern import Banded, BidirectionalBlockwise, BidirectionalWindow
from lexp.record.console import duration
from lexp.runs.run import Run, variant
from lexp.scoring.memory import spelled
from lexp.system.errors import ConfigError

# Bands at both sides of a query, before they are fitted to a trained length.
OPEN_BANDS = (BidirectionalBlockwise(), BidirectionalWindow())
# Of a parameter in a checkpoint (weights and two moments in float32), and of a scored token.
BYTES_PARAMETER, BYTES_TOKEN = 12, 18


@dataclass
class StageCost:
    """Of one stage: jobs, those done, tokens read, FLOPs, seconds (NaN: unknown), bytes."""

    label: str
    n_jobs: int = 0
    n_done: int = 0
    n_tokens: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    n_bytes: float = 0.0


def plan(study: Study, jobs: list[StudyJob], settings: dict[str, Any], rich: Rich) -> None:
    """Print the table; nothing is trained, but for the steps that are timed."""
    flops = settings["flops"] or study.flops
    names, weights = names_by_variant(jobs), {}
    for job in jobs:
        if job.stage.command == "train" and variant(job.settings) not in weights:
            weights[variant(job.settings)] = weigh(job.settings, flops)
    needs = []
    for stage in study.stages:
        need = StageCost(f"{stage.number} {stage.command}")
        for job in (one for one in jobs if one.stage == stage):
            if stage.command == "train":
                _add_training(need, job, weights[variant(job.settings)])
            else:
                _add_reading(need, job, wanted(job, jobs), weights)
        needs.append(need)
    rich.print(to_rich(_sheet(study, needs)))
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
    rich.print("\n".join(lines), markup=False)


def _add_training(need: StageCost, job: StudyJob, weight: Weight) -> None:
    need.n_jobs += 1
    need.n_bytes += weight.n_parameters * BYTES_PARAMETER * (2 + n_kept(job.settings))
    if Run(job.folder).is_done:
        need.n_done += 1
        return
    n_tokens = int(job.settings["tokens"]) // job.settings["batch_tokens"]
    n_tokens *= job.settings["batch_tokens"]
    need.n_tokens += n_tokens
    need.flops += n_tokens * weight.training()
    need.seconds += n_tokens * weight.training() / weight.speed


def n_kept(settings: dict[str, Any]) -> int:
    """Checkpoints that training keeps for good."""
    keep, n_steps = settings["keep"], int(settings["tokens"]) // settings["batch_tokens"]
    if keep is None:
        return 0
    return n_steps // keep if isinstance(keep, int) else len([k for k in keep if k <= n_steps])


def _add_reading(
    need: StageCost, job: StudyJob, runs: list[StudyJob], weights: dict[str, Weight]
) -> None:
    """Forward passes of an evaluation, a probe or an analysis over all its runs."""
    settings = job.settings
    need.n_jobs += 1
    if job.stage.command == "report":
        return
    for run in runs:
        weight = weights[variant(run.settings)]
        asked, kept = settings.get("checkpoints", "last"), n_kept(run.settings)
        moments = 1 if asked == "last" else max(kept, 1) if asked == "all" else len(asked)
        if job.stage.command == "analyze":
            moments = moments * ("trained" in settings["states"]) + ("random" in settings["states"])
            moments *= len(settings["instruments"])
        for method in make_methods(settings):
            bounded = isinstance(method.pattern, Banded) or method.pattern in OPEN_BANDS
            for length in settings["lengths"]:
                n_scored, n_read = _tokens(job.stage.command, settings, length, method)
                flops = moments * n_read * weight.forward(length, bounded)
                need.n_tokens += moments * n_read
                need.flops += flops
                need.seconds += flops / weight.speed
                need.n_bytes += moments * n_scored * BYTES_TOKEN


def _tokens(
    command: str, settings: dict[str, Any], length: int, method: Method
) -> tuple[float, float]:
    """Tokens scored and read of a run under a method at a length."""
    if command == "analyze":
        return 0.0, float(settings["texts"] * length)
    if command == "probe":
        n = settings["samples"] * length * len(settings["probes"])
        return float(n), 2.0 * n  # each with its control
    if settings["max_tokens"] is None:
        raise ConfigError("plan: max_tokens=null reads the whole test split, of unknown size")
    scored, read = 0.0, 0.0
    for protocol in make_protocols(settings):
        factor = 1.0
        if protocol.name == "sliding":
            factor = length / (getattr(protocol, "stride", None) or max(1, length // 4))
        elif protocol.name == "fixed":
            factor = length / getattr(protocol, "block", length)
        scored += settings["max_tokens"] * getattr(protocol, "percent", 100) / 100
        read += settings["max_tokens"] * factor
    return scored, read


def _sheet(study: Study, needs: list[StageCost]) -> Table:
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
