"""`lexp eval`."""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lexp.commands.eval_plan import plan
from lexp.commands.eval_workers import Progress, choose_workers, events_here, events_of_workers
from lexp.commands.load_runs import (
    RunWithData,
    make_methods,
    make_protocols,
    open_texts,
    say_what_failed,
)
from lexp.commands.make_objects import choose_kernel, make_corpus
from lexp.commands.select_checkpoints import n_checkpoints
from lexp.commands.wandb_tables import make_label, show_evaluation
from lexp.config.schema import plain
from lexp.config.validation import check_eval
from lexp.display.png import chart_png
from lexp.display.style import CurveStyles
from lexp.display.table import to_markdown, to_rich
from lexp.display.terminal import table_console
from lexp.evaluate import LAST, EvalResult, Method
from lexp.record import Console, NullLogger, WandbLogger, start_wandb
from lexp.report import METRICS, caption, make_grid, results_chart, to_sheet, write_results
from lexp.runs.run import variant_notes
from lexp.system import runtime
from lexp.system.errors import LexpError
from lexp.system.files import write_bytes, write_text
from lexp.system.text import natural


def check(config: DictConfig) -> dict[str, Any]:
    """The settings as plain values; ConfigError before any work if one of them is not allowed."""
    settings = plain(config)
    check_eval(settings)
    make_methods(settings)
    make_protocols(settings)
    if settings["dataset"] is not None:
        make_corpus(settings["dataset"])
    return settings


def eval_(config: DictConfig) -> None:
    """Score every finished run of a study at every length and print the table."""
    settings = check(config)
    methods = make_methods(settings)
    study = Path(settings["outputs"]) / settings["name"]
    runtime.prepare_process()
    choose_kernel(settings["kernel"], runtime.choose_device(settings["device"]))
    texts, problems = open_texts(study, settings)
    if settings["plan"]:
        plan(texts, methods, settings, table_console())
        if problems:
            raise problems[-1]
        return
    wandb = start_wandb(settings["wandb"], study, make_label(settings), settings)
    try:
        results = _evaluate_all(study, texts, methods, settings, problems)
        if results:
            _publish(study, results, variant_notes([text.run for text in texts]), wandb)
    finally:
        wandb.finish()
    say_what_failed(problems, [result.status for result in results], settings)


def _evaluate_all(
    study: Path,
    texts: list[RunWithData],
    methods: list[Method],
    settings: dict[str, Any],
    problems: list[LexpError],
) -> list[EvalResult]:
    """All cells, one model in memory at a time in each process; results.csv follows each new cell.

    What keeps a run from being scored is added to `problems`.
    """
    results: list[EvalResult] = []
    exams = [
        exam
        for text in texts
        for _ in range(n_checkpoints(text.run, settings))
        for exam in text.exams
    ]
    n_cells = sum(len(methods) * len(exam.lengths) for exam in exams)
    total = len(methods) * sum(exam.n_read(n) for exam in exams for n in exam.lengths)
    n_workers = choose_workers(settings["workers"], texts, total)
    with Console("evaluating", total) as console:
        by = f", {n_workers} at once" if n_workers > 1 else ""
        console.say(f"{n_cells} cells of {len(texts)} runs{by}, {total / 1e6:.2f}M tokens to read")
        here = n_workers == 1
        events = (
            events_here(texts, settings) if here else events_of_workers(texts, settings, n_workers)
        )
        for event in events:
            if isinstance(event, LexpError):
                problems.append(event)
            elif isinstance(event, Progress):
                console.advance(event.n_tokens, event.note)
            else:
                results.append(event.result)
                if event.is_new:
                    write_results(study)
    write_results(study)
    order = {text.run.name: n for n, text in enumerate(texts)}
    return sorted(results, key=lambda result: order[result.run.name])


def _publish(
    study: Path,
    results: list[EvalResult],
    variants: dict[str, str],
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
    show_evaluation(wandb, results, grids)
    sheets = [to_sheet(grid) for grid in grids]
    notes = caption(results)
    # A pipe or log file has no width: wide enough for any table is better than a cut one.
    rich = table_console()
    for sheet in sheets:
        rich.print(to_rich(sheet))
    rich.print("\n".join(notes), markup=False)
    paragraphs = [*map(to_markdown, sheets), "  \n".join(notes)]
    write_text(study / "results.md", "\n".join(paragraphs) + "\n")
    pictures = {}
    for label, same in by_protocol.items():
        name = "results.png" if len(protocols) == 1 else f"results-{label}.png"
        last = [result for result in same if result.step == LAST]
        pictures[name] = results_chart(last or same, variants)
    looks = CurveStyles.of(pictures.values())
    for name, chart in pictures.items():
        write_bytes(study / name, chart_png(chart, looks))
    print(f"{study}/results.csv, results.md, {', '.join(pictures)}", file=sys.stderr)
