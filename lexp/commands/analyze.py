"""The command `lexp analyze`."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from lexp.commands.load_runs import (
    RunWithData,
    load_model_under_test,
    load_untrained,
    open_runs,
    raise_problems,
)
from lexp.commands.run_plan import RunPlan, check_dataset, make_methods, whole_windows
from lexp.commands.select_runs import select_checkpoints
from lexp.config.settings import AnalyzeConfig, build_all
from lexp.config.validation import STATES, read_analyze
from lexp.data.corpus import Split
from lexp.data.tasks.dataset import held_out_examples
from lexp.data.tasks.rows import make_rows
from lexp.display.document import Chart, Picture
from lexp.display.png import chart_png
from lexp.display.style import CurveStyles
from lexp.display.table import Table, to_csv
from lexp.display.terminal import table_console
from lexp.evaluate import FitText, ModelUnderTest
from lexp.evaluate.task_run import SEED
from lexp.instruments.base import CheckpointInfo, Instrument
from lexp.instruments.measure import (
    ANALYSES,
    AnalysisResult,
    by_variant,
    labelled,
    measure,
    write_measurements,
)
from lexp.instruments.over_training import shown
from lexp.record import Console
from lexp.report.weights import of_present_weights
from lexp.result_store import NOT_DEFINED, clean_leftovers, component_of, is_same_part, read_newest
from lexp.runs.checkpoint import Checkpoint
from lexp.runs.locks import one_at_a_time, refuse_without_locks
from lexp.runs.run import run_notes
from lexp.scoring.protocol import long_enough
from lexp.system import runtime
from lexp.system.errors import LexpError, NotDefined
from lexp.system.files import clean, make_folder, write_bytes, write_text
from lexp.system.output import say
from lexp.system.text import file_stem


@dataclass(frozen=True, kw_only=True)
class AnalysisPlan(RunPlan):
    """A plan of `lexp analyze`."""

    config: AnalyzeConfig
    instruments: tuple[Instrument, ...]


def check(config: DictConfig) -> AnalysisPlan:
    """Return the plan; ConfigError before any work if a value is not allowed."""
    settings = read_analyze(config)
    check_dataset(settings)
    return AnalysisPlan(
        config=settings,
        lengths=tuple(sorted(settings.lengths)),
        methods=make_methods(settings),
        protocols=whole_windows(settings),
        checkpoints=settings.checkpoints,
        instruments=build_all(settings.instruments, Instrument, "instruments", lambda i: i.label),
    )


def analyze(config: DictConfig) -> None:
    """Measure every finished run of a study with every instrument; show and store the results."""
    analyze_runs(check(config))


def analyze_runs(plan: AnalysisPlan) -> None:
    """Measure the runs of a plan; show and store the results."""
    settings = plan.config
    runtime.prepare_process()
    refuse_without_locks(settings.study_folder)
    runs, problems = open_runs(plan)
    results = _analyze_all(runs, plan, problems)
    if results:
        notes = run_notes([opened.run for opened in runs])
        _publish(settings.study_folder, plan.instruments, results, notes)
    raise_problems(problems, [result.status for result in results], settings.allow_partial)


def _analyze_all(
    runs: list[RunWithData], plan: AnalysisPlan, problems: list[LexpError]
) -> list[AnalysisResult]:
    """Measure everything, one model in memory at a time."""
    n_texts, states = plan.config.texts, plan.config.states
    selected: list[tuple[RunWithData, Sequence[Checkpoint | None]]] = []
    for opened in runs:
        try:
            selected.append((opened, select_checkpoints(opened.run, plan.checkpoints)))
        except LexpError as error:
            problems.append(error)
    trained, random = (state in states for state in STATES)
    total = sum(
        sum(_lengths(opened, plan)) * len(opened.methods) * (len(checkpoints) * trained + random)
        for opened, checkpoints in selected
    )
    per_token = len(plan.instruments) * n_texts
    results: list[AnalysisResult] = []
    with Console("analyzing", per_token * total) as console:
        for opened, checkpoints in selected:
            try:
                clean_leftovers(opened.run.folder, ANALYSES)
                for info, tested in _models(opened, checkpoints, plan):
                    for length in _lengths(opened, plan):
                        ids = _rows_read(opened, tested, length, n_texts)
                        for method, instrument in itertools.product(
                            opened.methods, plan.instruments
                        ):
                            words = opened.run.name, info.state, instrument.label, method.label
                            console.advance(0, f"{' '.join(words)} {length}")
                            results.append(measure(tested, instrument, method, ids, info))
                            console.advance(n_texts * length)
            except LexpError as error:
                problems.append(error)
    return results


def _lengths(opened: RunWithData, plan: AnalysisPlan) -> tuple[int, ...]:
    """Return the lengths of a run's texts, or of the problems of its task."""
    return plan.lengths if opened.task is None else plan.problem_lengths(opened.task.dataset)


def _rows_read(opened: RunWithData, tested: ModelUnderTest, length: int, n: int) -> Tensor:
    """Return what instruments read at a length: texts, or problems of a task with their answers.

    A task's rows have the tokens of the longest one; the end token fills up shorter ones.
    """
    if opened.task is None:
        return first_tokens(tested, length, n)
    dataset = opened.task.dataset
    examples = held_out_examples(dataset.task, length, n, SEED)
    return make_rows(examples, dataset.row_len(length)).tokens


def _models(
    opened: RunWithData, checkpoints: Sequence[Checkpoint | None], plan: AnalysisPlan
) -> Iterator[tuple[CheckpointInfo, ModelUnderTest]]:
    """Yield the model at each of the checkpoints, and the same freshly initialised."""
    states = plan.config.states
    nll = f"nll@{opened.config.train_len}"
    for checkpoint in checkpoints if "trained" in states else ():
        step, loss = -1, math.nan
        if checkpoint is not None:
            step, loss = checkpoint.step, float(checkpoint.state["validation"].get(nll, math.nan))
        tested = load_model_under_test(opened, plan, checkpoint)
        yield CheckpointInfo("trained", step, loss), tested
    if "random" in states:
        tested = load_model_under_test(opened, plan, checkpoints[-1])
        model = load_untrained(opened).to(plan.device)
        # What is fitted is stored under the weights of the checkpoint.
        untrained = replace(tested, model=model, fit_text=no_fit_of_untrained)
        yield CheckpointInfo("random", 0, math.nan), untrained


def no_fit_of_untrained(split: Split) -> FitText:
    """Raise NotDefined: scales are fitted to trained models."""
    raise NotDefined("scales are fitted to trained models, this one is freshly initialised")


def first_tokens(tested: ModelUnderTest, length: int, n_texts: int) -> Tensor:
    """Return the first tokens of the first long enough documents, int64 [n, length]."""
    documents = long_enough(tested.tokens, length)[:n_texts]
    rows = [torch.from_numpy(tested.tokens.window(d, 0, length)) for d in documents]
    return torch.stack(rows)


def _publish(
    study: Path,
    instruments: Sequence[Instrument],
    results: list[AnalysisResult],
    notes: dict[str, str],
) -> None:
    """Print the tables; write CSV of all numbers and the pictures. notes: by run."""
    folder = make_folder(study / "analysis")
    with one_at_a_time(study):
        clean(folder, "*.csv", "*.png")
    rich = table_console()
    results = by_variant(results, notes)
    of_each = [[r for r in results if r.instrument.label == i.label] for i in instruments]
    items = [
        shown(instrument, labelled([r for r in same if r.ok], notes))
        for instrument, same in zip(instruments, of_each, strict=True)
    ]
    style = CurveStyles.of([item for each in items for item in each if isinstance(item, Chart)])
    for instrument, same, shown_items in zip(instruments, of_each, items, strict=True):
        name = file_stem(instrument.label)
        with one_at_a_time(study):  # another job's newest numbers must not be lost
            newest = read_newest(study, ANALYSES)
            newest = of_present_weights(study, newest, lambda r: (r.run.name, r.step))
            newest = [r for r in newest if is_same_part(r.instrument, component_of(instrument))]
            write_measurements(folder / f"{name}.csv", newest)
        for number, item in enumerate(shown_items, 1):
            stem = folder / f"{name}-{number}"
            if isinstance(item, Table):
                rich.table(item)
                write_text(stem.with_name(f"{stem.name}.csv"), to_csv(item))
            else:
                write_bytes(stem.with_name(f"{stem.name}.png"), png_of(item, style))
        for reason in sorted({f"{r.run.model}: {r.reason}" for r in same if not r.ok}):
            word = "not defined" if any(r.status == NOT_DEFINED for r in same) else "failed"
            rich.print(f"{instrument.label} {word} for {reason}")
    say(f"{folder}: a CSV and pictures for each instrument")


def png_of(item: Chart | Picture, styles: CurveStyles | None = None) -> bytes:
    """Return a chart or picture as a PNG file. styles: of all charts beside it."""
    return chart_png(item, styles) if isinstance(item, Chart) else item.png
