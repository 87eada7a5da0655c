"""The part of `lexp eval` about runs that were trained on tasks: exact match by problem length."""

import math
from collections.abc import Sequence
from pathlib import Path

from lexp.commands.eval_workers import choose_workers, events_of, ready_results
from lexp.commands.load_runs import RunWithData
from lexp.commands.run_plan import EvalPlan
from lexp.commands.select_runs import count_checkpoints
from lexp.display.document import Chart
from lexp.display.heat_png import heat_map_png
from lexp.display.png import chart_png
from lexp.display.style import CurveStyles
from lexp.display.table import in_markdown, to_markdown
from lexp.display.terminal import table_console
from lexp.evaluate import LAST, TaskResult
from lexp.evaluate.task_result import COLUMNS
from lexp.record import ChartLine, Console, NullLogger, WandbLogger, log_rows
from lexp.report.results import append_tasks, write_tasks
from lexp.report.task_grid import task_grid
from lexp.report.task_tokens import token_table
from lexp.report.tasks import (
    by_task,
    make_task_series,
    reach,
    task_chart,
    task_table,
    tasks_caption,
)
from lexp.runs.locks import one_at_a_time
from lexp.system.errors import LexpError
from lexp.system.files import clean, write_bytes, write_text
from lexp.system.output import say
from lexp.system.text import counted, file_stem


def evaluate_tasks(
    runs: Sequence[RunWithData], plan: EvalPlan, problems: list[LexpError]
) -> list[TaskResult]:
    """Answer the problems of every run, one model in memory at a time in each process.

    tasks.csv follows each new result. What keeps a run from being scored is added to `problems`.
    """
    study = plan.config.study_folder
    results: list[TaskResult] = []
    total = _n_tokens(runs, plan)
    n_workers = choose_workers(plan.config.workers, runs, total)
    with Console("evaluating", total) as console:
        console.say(cost_of_tasks(runs, plan, n_workers))
        for ready in ready_results(events_of(runs, plan, n_workers), console, problems):
            assert isinstance(ready.result, TaskResult), "all runs are of tasks"
            results.append(ready.result)
            if ready.is_new:
                append_tasks(study, [ready.result])
    write_tasks(study)
    order = {opened.run.name: n for n, opened in enumerate(runs)}
    return sorted(results, key=lambda result: order[result.run.name])


def cost_of_tasks(runs: Sequence[RunWithData], plan: EvalPlan, n_workers: int = 1) -> str:
    """Return the number of results that an evaluation has, and of the tokens it reads at most."""
    n_cells = sum(
        len(opened.methods)
        * len(opened.task.lengths)
        * count_checkpoints(opened.run, plan.checkpoints)
        for opened in runs
        if opened.task
    )
    by = f", {n_workers} at once" if n_workers > 1 else ""
    cells = f"{counted(n_cells, 'cell')} of {counted(len(runs), 'run')}{by}"
    return f"{cells}, {_n_tokens(runs, plan) / 1e6:.2f}M tokens to read"


def _n_tokens(runs: Sequence[RunWithData], plan: EvalPlan) -> int:
    return sum(
        len(opened.methods)
        * opened.task.n_read(length)
        * count_checkpoints(opened.run, plan.checkpoints)
        for opened in runs
        if opened.task
        for length in opened.task.lengths
    )


def publish_tasks(
    study: Path,
    runs: Sequence[RunWithData],
    results: list[TaskResult],
    wandb: WandbLogger | NullLogger,
) -> None:
    """Print a table of each task; write them as Markdown, with the curves beside them."""
    log_rows(wandb, "tasks", COLUMNS, [result.row() for result in results])
    results = [result for result in results if result.step == LAST] or results
    tables, token_tables, unreached, grids, charts = [], [], [], {}, {}
    for same, notes in by_task(results, [opened.run for opened in runs]):
        label = same[0].task.label
        tables.append(task_table(same, notes))
        token_tables.append(token_table(same, notes))
        if all(reach(series) is None for series in make_task_series(same, notes)):
            unreached.append(token_tables[-1])  # or there would be zeros alone
        charts[f"tasks-{file_stem(label)}.png"] = task_chart(same, notes)
        if grid := task_grid(same, notes):
            grids[label] = grid
    maps = {f"tasks-{file_stem(label)}-grid.png": grid for label, grid in grids.items()}
    for chart in charts.values():
        _show_in_wandb(wandb, chart)
    caption = tasks_caption(results)
    rich = table_console()
    for table in (*tables, *grids.values(), *unreached):
        rich.table(table)
    rich.lines(*caption)
    paragraphs = [
        *map(to_markdown, [*tables, *grids.values(), *token_tables]),
        "  \n".join(map(in_markdown, caption)),
    ]
    styles = CurveStyles.of(charts.values())
    with one_at_a_time(study):
        clean(study, "tasks.*", "tasks-*.png")
        write_text(study / "tasks.md", "\n".join(paragraphs) + "\n")
        for name, chart in charts.items():
            write_bytes(study / name, chart_png(chart, styles))
        for name, grid in maps.items():
            write_bytes(study / name, heat_map_png(grid))
    say(f"{study}/tasks.csv, tasks.md, {', '.join([*charts, *maps])}")


def _show_in_wandb(wandb: WandbLogger | NullLogger, chart: Chart) -> None:
    """Show the curves of a task, those of the median seed."""
    lines = []
    for curve in chart.curves:
        points = {point.x: point.y for point in curve.points if math.isfinite(point.y)}
        if points:
            name = f"{curve.name} {curve.group}".strip()
            lines.append(ChartLine(name, list(points), list(points.values())))
    if lines:
        wandb.chart(chart.title, chart.x_label, lines)
