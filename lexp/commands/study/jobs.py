"""A study's stages composed and checked whole, before any of them runs."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lexp.commands import analyze, evaluate, probe, report, train
from lexp.commands.analyze import AnalysisPlan
from lexp.commands.probe import ProbeRunPlan
from lexp.commands.run_parts import make_task
from lexp.commands.run_plan import EvalPlan, RunPlan
from lexp.commands.study.file import Stage, Study
from lexp.config.job_configs import JobConfigs
from lexp.config.messages import explained
from lexp.config.settings import HF, ReportConfig, TrainConfig
from lexp.report.expected import Expected, Findings, blocks_of, names_of
from lexp.report.expected_tasks import Answers, Ranks
from lexp.runs.run import run_folder, variant, variant_notes
from lexp.system.errors import ConfigError
from lexp.system.files import config_folder

CHECKS: dict[str, Callable[[DictConfig], "CommandPlan"]] = {
    "train": train.check,
    "eval": evaluate.check,
    "probe": probe.check,
    "analyze": analyze.check,
    "report": report.check,
}


# What a command's `check` returns.
CommandPlan = TrainConfig | EvalPlan | ProbeRunPlan | AnalysisPlan | ReportConfig


@dataclass(frozen=True)
class StudyJob:
    """A stage of a study, or one run of it, as it was checked and planned."""

    stage: Stage
    plan: CommandPlan


def compose_study(study: Study) -> list[StudyJob]:
    """Compose and check the jobs of every stage, in order; ConfigError names the first bad one.

    A run that several stages train is one job.
    """
    jobs: list[StudyJob] = []
    folders: set[Path] = set()
    with _composing():
        loader = GlobalHydra.instance().config_loader()
        configs: dict[str, JobConfigs] = {}  # by command
        for stage in study.stages:
            for words in stage.jobs():
                try:
                    if stage.command not in configs:
                        configs[stage.command] = JobConfigs(loader, stage.command)
                    config = configs[stage.command].compose(words)
                    job = StudyJob(stage, CHECKS[stage.command](config))
                except (HydraException, OmegaConfBaseException) as error:
                    raise ConfigError(f"{_where(stage, words)}: {explained(error)}") from None
                except ConfigError as error:
                    raise ConfigError(f"{_where(stage, words)}: {error}") from None
                if isinstance(job.plan, TrainConfig):
                    folder = run_folder(job.plan.study_folder, job.plan.raw)
                    if folder in folders:
                        continue
                    folders.add(folder)
                jobs.append(job)
    _check_together(study, jobs)
    return jobs


@contextlib.contextmanager
def _composing() -> Iterator[None]:
    """Let configs compose, within an application of Hydra or without."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield


def _where(stage: Stage, words: list[str]) -> str:
    job = f", job {' '.join(words)}" if stage.command == "train" else ""
    return f"stage {stage.number}, lexp {stage.command}{job}"


def training_runs(jobs: list[StudyJob]) -> list[TrainConfig]:
    """Return the settings of every run that a study trains."""
    return [job.plan for job in jobs if isinstance(job.plan, TrainConfig)]


def names_by_variant(jobs: list[StudyJob]) -> dict[str, str]:
    """Return the name that tables give each variant: the model, and what tells it apart."""
    runs = {variant(run.raw): run for run in training_runs(jobs)}
    notes = variant_notes(run.raw for run in runs.values())
    return {key: " ".join(filter(None, (run.model.name, notes[key]))) for key, run in runs.items()}


def _named_runs(jobs: list[StudyJob]) -> list[tuple[TrainConfig, str]]:
    """Return every run that a study trains, with the name of its variant."""
    names = names_by_variant(jobs)
    return [(run, names[variant(run.raw)]) for run in training_runs(jobs)]


def is_read(plan: RunPlan, run: TrainConfig) -> bool:
    """Return True for a run that a command of a study is about."""
    names = _model_names(plan)
    return names is None or run.model.name in names


def evaluations_of(run: TrainConfig, jobs: list[StudyJob]) -> list[EvalPlan]:
    """Return the evaluations of a study that are about a run, each of that run's model alone."""
    plans = [job.plan for job in jobs if isinstance(job.plan, EvalPlan)]
    return [
        replace(plan, config=replace(plan.config, model=run.model.name))
        for plan in plans
        if is_read(plan, run)
    ]


def run_label(run: TrainConfig) -> str:
    """Return the words for a run in messages: its model and its seed."""
    return f"{run.model.name} seed {run.seed}"


def _model_names(plan: CommandPlan | RunPlan) -> tuple[str, ...] | None:
    """Return the models whose runs a command selects; None for all, or for training."""
    if isinstance(plan, TrainConfig):
        return None
    model = plan.model if isinstance(plan, ReportConfig) else plan.config.model
    return (model,) if isinstance(model, str) else model


# A place in the tables: (name of the row, protocol, length in trained lengths).
Place = tuple[str, str, float]


def places(jobs: list[StudyJob]) -> set[Place]:
    """Return every place at which the evaluations of a study put a result."""
    named = _named_runs(jobs)
    return {
        (f"{name}, {method.label}", protocol.name, length / run.train_len)
        for job in jobs
        if isinstance(job.plan, EvalPlan)
        for run, name in named
        if is_read(job.plan, run)
        for length in job.plan.lengths
        for method in job.plan.methods
        for protocol in job.plan.protocols
    }


def asked(jobs: list[StudyJob]) -> set[tuple[str, str, float]]:
    """Return every (model, label of a task, length in trained lengths) that evaluations ask."""
    return {
        (run.model.name, dataset.task.label, length / dataset.max_length)
        for job in jobs
        if isinstance(job.plan, EvalPlan)
        for run in training_runs(jobs)
        if is_read(job.plan, run) and (dataset := make_task(run.dataset))
        for length in job.plan.problem_lengths(dataset)
    }


def looked_at(jobs: list[StudyJob]) -> set[tuple[str, str, str]]:
    """Return every (instrument, name of the row, state) that the study's analyses look at."""
    named = _named_runs(jobs)
    return {
        (instrument.name, name, state)
        for job in jobs
        if isinstance(job.plan, AnalysisPlan)
        for run, name in named
        if is_read(job.plan, run)
        for instrument in job.plan.instruments
        for state in job.plan.config.states
    }


def _check_together(study: Study, jobs: list[StudyJob]) -> None:
    """Raise ConfigError if a stage or an expected number refers to what no stage makes."""
    trained = {run.model.name for run in training_runs(jobs)}
    for job in jobs:
        for name in _model_names(job.plan) or ():
            if name not in trained and name != HF:
                raise ConfigError(
                    f"stage {job.stage.number}, lexp {job.stage.command}: model={name}: the study "
                    f"trains {', '.join(sorted(trained)) or 'none'}"
                )
    for block in blocks_of({"expected": study.expected}):
        if missing := _not_made(block, jobs):
            raise ConfigError(f"expected, {block.source}: no stage makes {missing[0]}")


def _not_made(block: Expected, jobs: list[StudyJob]) -> list[str]:
    """Return what a block compares that no stage makes."""
    if isinstance(block, Findings):
        looks = looked_at(jobs)
        return [
            f"{block.instrument} of {model} ({block.state})"
            for model in block.rows
            if (block.instrument, model, block.state) not in looks
        ]
    if isinstance(block, Ranks):
        longer = {model for model, _, at in asked(jobs) if at > 1}
        return [f"{model} beyond its trained length" for model in block.rows if model not in longer]
    if isinstance(block, Answers):
        answers = asked(jobs)
        return [
            f"{model} on {block.task} at {block.at:g}x"
            for model in block.rows
            if (model, block.task, block.at) not in answers
        ]
    cells = places(jobs)
    return [
        f"{name} at {at:g}x under {block.protocol}"
        for name in names_of(block)
        for n, at in enumerate(block.at)
        if (name, block.protocol, at) not in cells and not _is_blank(block, name, n)
    ]


def _is_blank(block: Any, name: str, n: int) -> bool:
    """Return True if the paper prints nothing at a place of a row."""
    row = block.rows.get(name)
    return isinstance(row, tuple) and row[n] is None
