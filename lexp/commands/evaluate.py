"""The command `lexp eval`."""

import math
from pathlib import Path

from omegaconf import DictConfig

from lexp.commands.eval_cost import print_cost
from lexp.commands.eval_tasks import cost_of_tasks, evaluate_tasks, publish_tasks
from lexp.commands.eval_workers import choose_workers, events_of, ready_results
from lexp.commands.load_runs import RunWithData, open_runs, raise_problems
from lexp.commands.run_plan import EvalPlan, plan_evaluation
from lexp.commands.select_runs import count_checkpoints
from lexp.config.settings import EvalConfig
from lexp.config.validation import read_eval
from lexp.display.document import Chart
from lexp.display.heat_png import heat_map_png
from lexp.display.png import chart_png
from lexp.display.style import CurveStyles
from lexp.display.table import Table, in_markdown, to_markdown
from lexp.display.terminal import table_console
from lexp.evaluate import COLUMNS, LAST, EvalResult
from lexp.record import (
    ChartLine,
    Console,
    NullLogger,
    RunLabel,
    WandbLogger,
    log_rows,
    start_wandb,
)
from lexp.report import (
    METRICS,
    append_results,
    caption,
    make_grid,
    metrics_in_order,
    results_picture,
    to_table,
    write_results,
)
from lexp.report.perplexity_table import Grid
from lexp.runs.locks import one_at_a_time, refuse_without_locks
from lexp.runs.run import LEXP, variant_notes
from lexp.system import runtime
from lexp.system.errors import LexpError
from lexp.system.files import clean, digest, write_bytes, write_text
from lexp.system.output import say
from lexp.system.text import counted, natural

# What an evaluation's numbers do not depend on.
NOT_ASKED = ("outputs", "plan", "workers", "wandb", "allow_partial", "device")


def check(config: DictConfig) -> EvalPlan:
    """Return the plan of an evaluation; ConfigError before any work if a value is not allowed."""
    return plan_evaluation(read_eval(config))


def eval_(config: DictConfig) -> None:
    """Score every finished run of a study at every length and print the table."""
    evaluate_runs(check(config))


def evaluate_runs(plan: EvalPlan) -> None:
    """Score the runs of a plan and print the table."""
    settings = plan.config
    runtime.prepare_process()
    _ = plan.make_attend  # ConfigError before texts are read
    if not settings.plan:
        refuse_without_locks(settings.study_folder)
    runs, problems = open_runs(plan)
    of_tasks = [opened for opened in runs if opened.task]
    runs = [opened for opened in runs if not opened.task]
    if settings.plan:
        say(*[cost_of_tasks(of_tasks, plan)] * bool(of_tasks))
        if runs:
            print_cost(runs, plan, table_console())
        if problems:
            raise problems[-1]
        return
    wandb = start_wandb(settings.wandb, settings.study_folder, _wandb_label(settings), settings.raw)
    try:
        results = _evaluate_all(runs, plan, problems) if runs else []
        answers = evaluate_tasks(of_tasks, plan, problems) if of_tasks else []
        if answers:
            publish_tasks(settings.study_folder, of_tasks, answers, wandb)
        if results:
            notes = variant_notes(opened.run.made_of for opened in runs)
            trained = [opened.run for opened in runs if opened.run.kind == LEXP]
            budgets = [int(run.settings["tokens"]) for run in trained]
            _publish(settings.study_folder, results, notes, budgets, wandb)
    finally:
        wandb.finish()
    statuses = [result.status for result in [*results, *answers]]
    raise_problems(problems, statuses, settings.allow_partial)


def _evaluate_all(
    runs: list[RunWithData], plan: EvalPlan, problems: list[LexpError]
) -> list[EvalResult]:
    """Score everything, one model in memory at a time in each process.

    results.csv follows each new result. What keeps a run from being scored is added to `problems`.
    """
    results: list[EvalResult] = []
    study = plan.config.study_folder
    all_targets = [
        (targets, len(opened.methods))
        for opened in runs
        for _ in range(count_checkpoints(opened.run, plan.checkpoints))
        for targets in opened.targets
    ]
    n_cells = sum(n_methods * len(targets.lengths) for targets, n_methods in all_targets)
    total = sum(
        n_methods * targets.n_read(length)
        for targets, n_methods in all_targets
        for length in targets.lengths
    )
    n_workers = choose_workers(plan.config.workers, runs, total)
    with Console("evaluating", total) as console:
        by = f", {n_workers} at once" if n_workers > 1 else ""
        cells = f"{counted(n_cells, 'cell')} of {counted(len(runs), 'run')}"
        console.say(f"{cells}{by}, {total / 1e6:.2f}M tokens to read")
        for ready in ready_results(events_of(runs, plan, n_workers), console, problems):
            assert isinstance(ready.result, EvalResult), "all runs are of texts"
            results.append(ready.result)
            if ready.is_new:
                append_results(study, [ready.result])
    write_results(study)
    order = {opened.run.name: n for n, opened in enumerate(runs)}
    return sorted(results, key=lambda result: order[result.run.name])


def _publish(
    study: Path,
    results: list[EvalResult],
    variants: dict[str, str],
    budgets: list[int],
    wandb: WandbLogger | NullLogger,
) -> None:
    """Print the tables; write them as Markdown, with the curves beside them."""
    results = sorted(results, key=lambda r: (r.run.model, natural(variants[r.run.variant])))
    protocols = list(dict.fromkeys(result.protocol.label for result in results))
    by_protocol = {
        label: [result for result in results if result.protocol.label == label]
        for label in protocols
    }
    grids = [
        make_grid(metric, same, variants) for same in by_protocol.values() for metric in METRICS
    ]
    _show_in_wandb(wandb, results, grids)
    shown = [make_grid(metrics_in_order(same)[0], same, variants) for same in by_protocol.values()]
    tables = [to_table(grid) for grid in shown]
    notes = caption(results)
    # A pipe or log file has no width: wide enough for any table is better than a cut one.
    rich = table_console()
    for table in tables:
        rich.table(table)
        for note in table.notes:
            rich.print(note)
    rich.lines(*notes)
    paragraphs = [*map(to_markdown, tables), "  \n".join(map(in_markdown, notes))]
    pictures: dict[str, Chart | Table] = {}
    for label, same in by_protocol.items():
        name = "results.png" if len(protocols) == 1 else f"results-{label}.png"
        last = [result for result in same if result.step == LAST]
        pictures[name] = results_picture(last or same, variants, budgets)
    styles = CurveStyles.of(item for item in pictures.values() if isinstance(item, Chart))
    drawn = {
        name: heat_map_png(item) if isinstance(item, Table) else chart_png(item, styles)
        for name, item in pictures.items()
    }
    with one_at_a_time(study):
        clean(study, "results.*", "results-*.png")
        write_text(study / "results.md", "\n".join(paragraphs) + "\n")
        for name, png in drawn.items():
            write_bytes(study / name, png)
    say(f"{study}/results.csv, results.md, {', '.join(pictures)}")


def _wandb_label(settings: EvalConfig) -> RunLabel:
    """Return the name of an evaluation in wandb: the same question goes on as the same run."""
    question = {key: value for key, value in settings.raw.items() if key not in NOT_ASKED}
    return RunLabel(settings.name, f"eval-{digest(question)[:6]}", "eval")


def _show_in_wandb(
    wandb: WandbLogger | NullLogger, results: list[EvalResult], grids: list[Grid]
) -> None:
    """Show the results as they stand in results.csv, and a chart of every grid, a line per row."""
    log_rows(wandb, "results", COLUMNS, [result.row() for result in results])
    for grid in grids:
        lines = []
        for row in grid.rows:
            points = {n: e.value for n, e in row.entries.items() if math.isfinite(e.value)}
            name = " ".join(filter(None, (label(row) for label in grid.labels.values())))
            if points:
                lines.append(ChartLine(name, list(points), list(points.values())))
        if lines:
            wandb.chart(grid.title, "length", lines)
