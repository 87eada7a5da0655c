"""The problems that runs of tasks are asked: of which task and lengths, and what is said first."""

import itertools
from dataclasses import replace

from lexp.commands.run_parts import make_positions, make_task
from lexp.commands.run_plan import RunPlan
from lexp.config.settings import HfRunConfig, Node, TrainConfig
from lexp.data.tasks.dataset import TaskDataset, held_out_examples
from lexp.evaluate import TaskTargets
from lexp.runs.run import Run
from lexp.scoring.protocol import Segments
from lexp.system.errors import ConfigError


def asked_task(run: Run, config: TrainConfig | HfRunConfig, dataset: Node) -> TaskDataset | None:
    """Return the task that a run is asked; None for texts.

    ConfigError if the run was trained on texts and a task is asked for, or the other way round. The
    lengths of training are the run's own.
    """
    trained, asked = make_task(config.dataset), make_task(dataset)
    if (trained is None) != (asked is None):
        words = "a task" if trained else "texts", "a task" if asked else "texts"
        raise ConfigError(
            f"dataset={dataset.name}: {run.name} was trained on {words[0]}, this is {words[1]}"
        )
    if trained and asked and asked.task != trained.task and isinstance(config, TrainConfig):
        for scheme in make_positions(config):
            if scheme.reads_tokens:
                raise ConfigError(
                    f"dataset={dataset.name}: {scheme.title} of {run.name} takes positions from "
                    f"problems of {trained.task.label}, this is {asked.task.label}"
                )
    return trained and asked and replace(trained, task=asked.task)


def task_targets(task: TaskDataset, dataset: Node, plan: RunPlan) -> TaskTargets:
    """Return the lengths that a task is asked at; ConfigError for one that no problem has."""
    pairs = itertools.product(plan.grid, repeat=2) if task.task.n_lengths == 2 else ()
    targets = TaskTargets(task, (*plan.problem_lengths(task), *pairs), plan.examples)
    for length in targets.lengths:
        try:
            held_out_examples(task.task, length, 1, 0)
        except ValueError as error:
            key = "lengths" if isinstance(length, int) else "grid"
            raise ConfigError(f"{key}: dataset={dataset.name}: {error}") from None
    return targets


def task_remarks(targets: TaskTargets, trained_on: Node, plan: RunPlan) -> list[str]:
    """Return what is said of problems before they are asked: their lengths, or another task."""
    task, trained, lines = targets.dataset.task, make_task(trained_on), list[str]()
    if trained and trained.task != task:
        lines.append(
            f"runs trained on {trained.task.label} are asked problems of {task.label}, another "
            "task; leave dataset= out to ask their own"
        )
    lengths = plan.problem_lengths(targets.dataset)
    if lengths != plan.lengths:
        listed = ",".join(map(str, lengths))
        lines.append(
            f"problems of {task.label} at lengths=[{listed}], as training had lengths to "
            f"{targets.dataset.max_length}; give lengths= for others"
        )
    if names := [protocol.name for protocol in plan.protocols if protocol.name != Segments.name]:
        lines.append(f"protocol={','.join(names)}: is for texts; answers of tasks are scored whole")
    return lines
