"""The sections of `lexp report` other than those on protocols: training, instruments, a study."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lexp.config.folders import config_folders
from lexp.config.instantiate import build
from lexp.config.yaml_file import read_yaml
from lexp.display.document import Item, Section
from lexp.display.table import Table
from lexp.evaluate import LAST, EvalResult, TaskResult
from lexp.instruments.base import Instrument
from lexp.instruments.expected import measured_table
from lexp.instruments.measure import AnalysisResult, labelled
from lexp.instruments.over_training import shown
from lexp.report.expected import Findings, blocks_of, expected_table
from lexp.report.expected_tasks import Answers, Ranks, answers_table, ranks_table
from lexp.report.over_training import TRAINING, over_training
from lexp.report.study_results import ResultSeries
from lexp.report.task_answer import task_answer
from lexp.report.task_grid import task_grid
from lexp.report.task_tokens import place_chart, token_table
from lexp.report.tasks import by_task, task_chart, task_table, tasks_caption
from lexp.runs.run import Run
from lexp.system.errors import CheckpointError, ConfigError
from lexp.system.output import say
from lexp.system.reading import own_file_exists, read_own

# What `lexp study` leaves in the folder of a study: what is claimed, expected and typed.
STUDY_FILE = "study.json"


def training_sections(
    results: list[EvalResult],
    last_steps: dict[str, int | None],
    notes: dict[str, str],
    delta: float,
) -> list[Section]:
    """Return a section on checkpoints of several steps, where any were scored."""
    steps = {name: LAST if step is None else step for name, step in last_steps.items()}
    items = over_training(results, steps, notes, delta)
    return [Section("Over training", TRAINING, tuple(items))] if items else []


def tasks_opening(results: Sequence[TaskResult], runs: Sequence[Run]) -> list[str]:
    """Return the paragraphs on tasks with which a report opens, one for each."""
    paragraphs = [" ".join(task_answer(same, notes)) for same, notes in by_task(results, runs)]
    return [paragraph for paragraph in paragraphs if paragraph]


def task_sections(results: Sequence[TaskResult], runs: Sequence[Run]) -> list[Section]:
    """Return a section for each task: its table, its curves, and the map of pairs of lengths."""
    sections = []
    for same, notes in by_task(results, runs):
        grid = task_grid(same, notes)
        items: list[Item] = [
            task_table(same, notes),
            task_chart(same, notes),
            *([grid] if grid else []),
            token_table(same, notes),
            *([places] if (places := place_chart(same, notes)) else []),
        ]
        title = f"Exact match by problem length: {same[0].task.label}"
        sections.append(Section(title, " ".join(tasks_caption(same)), tuple(items)))
    return sections


def instrument_sections(results: list[AnalysisResult], notes: dict[str, str]) -> list[Section]:
    """Return a section for each instrument that measured something. notes: by run."""
    by_label: dict[str, list[AnalysisResult]] = {}
    for result in results:
        by_label.setdefault(result.instrument.label, []).append(result)
    sections = []
    instruments = all_instruments()
    for label, same in by_label.items():
        instrument = instruments.get(same[0].instrument.name)
        if instrument is None:
            words = "Not known here, so not shown: its file is found with --config-dir DIR."
            say(f"lexp: instrument {label}: {words}")
            sections.append(Section(f"Instrument: {label}", words))
            continue
        words = (sys.modules[type(instrument).__module__].__doc__ or "").strip()
        items = shown(instrument, labelled(same, notes))
        sections.append(Section(f"Instrument: {label}", words, tuple(items)))
    return sections


def all_instruments() -> dict[str, Instrument]:
    """Return every instrument by name; what it shows does not depend on its settings."""
    instruments = {}
    for folder in config_folders():
        for path in sorted((folder / "instruments").glob("*.yaml")):
            for key, node in read_yaml(path).items():
                instrument = build(node, Instrument, f"instruments.{key}")
                instruments[instrument.name] = instrument
    return instruments


def study_section(
    study: Path,
    all_series: Sequence[ResultSeries],
    answered: Sequence[TaskResult],
    analyses: Sequence[AnalysisResult],
    notes: Mapping[str, str],
) -> Section | None:
    """Return what a study claims and expects next to what was found; None without `lexp study`.

    notes: by run, what tells its variant apart.
    """
    path = study / STUDY_FILE
    if not own_file_exists(path):
        return None
    try:
        stored = json.loads(read_own(path))
        return Section(
            f"Study {stored['name']}, {stored['scale']}",
            "\n\n".join(_study_paragraphs(stored)),
            tuple(_study_tables(stored, all_series, answered, analyses, notes)),
        )
    except (OSError, ValueError, TypeError, LookupError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{path} is not what `lexp study` writes ({error})") from None


def _study_paragraphs(stored: dict[str, Any]) -> Iterator[str]:
    yield f"Claim: {_line(stored['claim'])}"
    yield f"Source: {_line(stored['source'])}"
    yield f"Command: {_line(stored['command'])}"
    if stored["deviations"]:
        listed = " ".join(f"({n}) {_line(text)}" for n, text in enumerate(stored["deviations"], 1))
        yield f"Deviations: {listed}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _study_tables(
    stored: dict[str, Any],
    all_series: Sequence[ResultSeries],
    answered: Sequence[TaskResult],
    analyses: Sequence[AnalysisResult],
    notes: Mapping[str, str],
) -> Iterator[Table]:
    for block in blocks_of(stored):
        if isinstance(block, Findings):
            same = [result for result in analyses if result.instrument.name == block.instrument]
            yield measured_table(block, labelled(same, notes))
        elif isinstance(block, Ranks):
            yield ranks_table(block, answered)
        elif isinstance(block, Answers):
            yield answers_table(block, answered)
        else:
            yield expected_table(block, all_series)
