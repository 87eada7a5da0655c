"""Numbers that papers printed of tasks, beside those of a study: ranks of schemes, exact match."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lexp.display.table import Table, TableCell
from lexp.evaluate import TaskResult
from lexp.report.tasks import TaskSeries, learned_seeds, make_task_series, percent
from lexp.statistics import mean_reciprocal_ranks


@dataclass(frozen=True)
class Ranks:
    """Printed mean reciprocal ranks, by model. note: below the table."""

    source: str
    note: str
    rows: dict[str, float]


@dataclass(frozen=True)
class Answers:
    """Printed exact match by model, in % or in words, on one task.

    task: its label. at: the problem length, in trained lengths.
    """

    source: str
    note: str
    task: str
    at: float
    rows: dict[str, float | str]


@dataclass(frozen=True)
class TaskScores:
    """What the runs of a task answer, as they were trained.

    label: of the task. learned: by model and seed, whether the run has learned the task. series:
    by model; a model with two variants is left out, as a rank is of one.
    """

    label: str
    learned: dict[tuple[str, int], bool]
    series: dict[str, TaskSeries]

    def score(self, model: str, length: int) -> float | None:
        """Return the median exact match of the seeds that have learned; None if none has."""
        by_seed = self.series[model].results.get(length, {})
        shares = [
            result.measures.exact_match
            for seed, result in by_seed.items()
            if self.learned[model, seed] and result.ok
        ]
        return statistics.median(shares) if shares else None

    def longer(self, models: Sequence[str]) -> list[int]:
        """Return the lengths beyond the trained one at which all these models were asked."""
        asked = [set(self.series[model].results) for model in models]
        longest = max(self.series[model].trained_length for model in models)
        lengths = [n for n in set.intersection(*asked) if isinstance(n, int)]
        return sorted(n for n in lengths if n > longest)


def scores_by_task(results: Sequence[TaskResult]) -> dict[str, TaskScores]:
    """Return the scores of each task by its label."""
    by_label: dict[str, list[TaskResult]] = {}
    for result in results:
        if not result.second_length:
            by_label.setdefault(result.task.label, []).append(result)
    found = {}
    for label, same in by_label.items():
        plain = [one for one in make_task_series(same, {}) if one.is_plain]
        once = [one for one in plain if [o.model for o in plain].count(one.model) == 1]
        states = learned_seeds(once)
        learned = {(o.model, seed): bool(states[o.variant, seed]) for o in once for seed in o.seeds}
        found[label] = TaskScores(label, learned, {one.model: one for one in once})
    return found


def ranks_table(block: Ranks, results: Sequence[TaskResult]) -> Table:
    """Make a row for each model: printed, ours over all tasks, and ours on each task.

    A comparison is one task at one length beyond the trained one, between the medians of the seeds
    that have learned it. A task that not every model has learned is not counted, as ranks among
    fewer models are higher.
    """
    models, comparisons, left_out = list(block.rows), {}, []
    n_runs = n_learned = 0
    for task in scores_by_task(results).values():
        there = [model for model in models if model in task.series]
        n_runs += sum(model in there for model, _ in task.learned)
        n_learned += sum(state for (model, _), state in task.learned.items() if model in there)
        lacking = [m for m in models if not any(s for (o, _), s in task.learned.items() if o == m)]
        if lacking:
            left_out.append(f"{task.label} (not learned by {', '.join(lacking)})")
            continue
        scores = [{m: task.score(m, n) for m in models} for n in task.longer(models)]
        comparisons[task.label] = [
            {m: share for m, share in one.items() if share is not None}
            for one in scores
            if None not in one.values()
        ]
    by_task = {label: mean_reciprocal_ranks(same) for label, same in comparisons.items() if same}
    every = [one for same in comparisons.values() for one in same]
    ours = mean_reciprocal_ranks(every)
    rows = [
        (
            TableCell(model),
            TableCell(f"{printed:.2f}"),
            TableCell(f"{ours[model]:.2f}" if ours else ""),
            *[TableCell(f"{ranks[model]:.2f}") for ranks in by_task.values()],
        )
        for model, printed in block.rows.items()
    ]
    count = (
        f"Ours: {len(every)} comparisons, each of one task at one length beyond the trained one, "
        f"of the median of the seeds that have learned it ({n_learned} of {n_runs} runs); equal "
        "scores share the mean of the reciprocals of their places."
    )
    missing = [f"Not counted: {'; '.join(left_out)}."] * bool(left_out)
    return Table(
        f"Mean reciprocal rank, printed and ours: {block.source}",
        ("model", "printed", "ours", *by_task), tuple(rows), 1,
        (count, *missing, *filter(None, [block.note])),
    )  # fmt: skip


def answers_table(block: Answers, results: Sequence[TaskResult]) -> Table:
    """Make a row for each model: printed, the median and the best of our seeds, and how many."""
    task = scores_by_task(results).get(block.task)
    rows = []
    for model, printed in block.rows.items():
        shown = printed if isinstance(printed, str) else f"{printed:g}"
        cells = ["", "", ""]
        if task and model in task.series:
            series = task.series[model]
            shares = series.shares(round(block.at * series.trained_length))
            n_learned = sum(task.learned[model, seed] for seed in series.seeds)
            cells[2] = f"{n_learned} of {len(series.seeds)}"
            if shares:
                cells[:2] = percent(statistics.median(shares)), percent(max(shares))
        rows.append(tuple(map(TableCell, (model, shown, *cells))))
    return Table(
        f"Exact match in %, {block.task} at {block.at:g}x the trained length, printed and ours: "
        f"{block.source}",
        ("model", "printed", "ours, median seed", "best seed", "learned"), tuple(rows), 1,
        tuple(filter(None, [block.note])),
    )  # fmt: skip
