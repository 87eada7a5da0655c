"""The results file of a study: a CSV kept with the code, whose runs are not trained again.

A scale of a study file names it (`results: docs/results.csv`), from the folder in which lexp is
started. Its rows are those of results.csv, each with

    by_document   total nats / scored tokens of each document, in the order of the documents' names
    command, commit, processor   what made the row, the checkout it was made from, and where

Intervals and paired differences depend on the losses of documents alone, so all of them can be
computed from the file. `precision` is the one in use, not `auto`.
"""

import csv
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lexp.commands.run_parts import make_task, own_code, training_pattern
from lexp.commands.run_plan import EvalPlan
from lexp.commands.texts import TrainingTexts, text_digests
from lexp.commands.train_reading import make_reading
from lexp.config.settings import StudyConfig, TrainConfig
from lexp.evaluate import COLUMNS, LAST, EvalResult, methods_for
from lexp.extension import method_label
from lexp.report.results import stored_evaluations
from lexp.result_store import append_csv, write_csv
from lexp.runs.run import TRAINED_ON, digests_of, run_name, variant
from lexp.runs.source import source_commit
from lexp.system.errors import ConfigError
from lexp.system.files import make_folder
from lexp.system.output import say

ALL_COLUMNS = (*COLUMNS, "by_document", "command", "commit", "processor")
# What tells the rows of a run apart.
CELL = ("attention", "extension", "protocol", "length")
# Losses of the same weights and texts agree to so many nats, also between machines.
SAME_NLL = 1e-3
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class ResultsFile:
    """The rows of a results file, by column; none if the file is not there yet."""

    path: Path
    rows: tuple[dict[str, str], ...]

    def rows_of(self, run: TrainConfig, texts: TrainingTexts) -> list[dict[str, str]]:
        """Return the rows of a run of these settings, texts, vocabulary and seed.

        With precision=auto they may be in the precision of any machine.
        """
        made_of = {**run.raw, TRAINED_ON: _digests(run, texts)}
        wanted = variant(made_of), str(run.seed)
        return [
            row
            for row in self.rows
            if (row["variant"], row["seed"]) == wanted
            and run.precision in ("auto", row["precision"])
        ]

    def is_of_other_texts(self, run: TrainConfig, texts: TrainingTexts) -> bool:
        """Return True if all rows are of texts that are not those of a run."""
        own = _digests(run, texts)["text"]
        return bool(self.rows) and all(row["text"] != own for row in self.rows)


def _digests(run: TrainConfig, texts: TrainingTexts) -> dict[str, Any]:
    """Return what `Run.made_of` will hold of a run that is to be trained."""
    reading = make_reading(run)
    opened = texts.load(run.dataset, run.tokenizer, run.cache, reading.needs_end)
    return digests_of({**text_digests(*opened), "code": own_code(run)})


def refuse_without_rows(path: str, runs: Sequence[TrainConfig], settings: StudyConfig) -> None:
    """Raise ConfigError for a study that its results file cannot be of."""
    remedy = "remove it, or add study.scales.SCALE.results=null: no results file"
    for command in ("train", "eval"):
        if typed := settings.overrides[command]:
            raise ConfigError(
                f"{command}.{next(iter(typed))}: {path} is of the study as its file has it; "
                + remedy.replace("SCALE", settings.scale)
            )
    if not runs:
        raise ConfigError(f"results={path}: the study trains no runs; remove the key")
    for run in runs:
        if make_task(run.dataset) or run.init_from:
            raise ConfigError(
                f"results={path}: {run_name(run.raw)} is trained on a task or from other weights, "
                "of which a results file has no rows; remove the key"
            )


def read_results_file(path: Path) -> ResultsFile:
    """Read a results file; ConfigError in one line if it is not one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file, strict=True))
    except FileNotFoundError:
        return ResultsFile(path, ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"results: {path} cannot be read ({error})") from None
    if not lines or tuple(lines[0]) != ALL_COLUMNS:
        raise ConfigError(
            f"results: {path} is no results file, whose first line is {','.join(ALL_COLUMNS)}; "
            "mend it, or name another file"
        )
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(ALL_COLUMNS):
            raise ConfigError(
                f"results: {path}, line {number} has {len(line)} values for {len(ALL_COLUMNS)} "
                "columns; remove the line"
            )
    return ResultsFile(path, tuple(dict(zip(lines[0], line, strict=True)) for line in lines[1:]))


def cell_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the method, protocol and length of a row, as text."""
    return tuple(str(row[column]) for column in CELL)


def cells_of(run: TrainConfig, plans: Sequence[EvalPlan]) -> set[tuple[str, ...]]:
    """Return the cell of every row that evaluations give a run."""
    trained = training_pattern(run)
    return {
        (method.pattern.label, method.extension.label, protocol.label(plan.lengths), str(length))
        for plan in plans
        for method in methods_for(trained, plan.methods)
        for protocol in plan.protocols
        for length in plan.lengths
    }


def cells_in_words(cells: Iterable[tuple[str, ...]]) -> str:
    """Return the methods and protocols of cells, for a message."""
    return ", ".join(
        dict.fromkeys(f"{method_label(*cell[:2])} under {cell[2]}" for cell in sorted(cells))
    )


def evaluated_rows(study: Path, run: str, command: str) -> list[dict[str, Any]]:
    """Return the rows of all evaluations of a run, by the name of its folder."""
    results = [r for r in stored_evaluations(study) if r.run.name == run and r.step == LAST]
    made_by = {"command": command, "commit": source_commit(), "processor": processor()}
    return [{**r.row(), "by_document": by_document(r), **made_by} for r in results]


def rows_to_add(
    there: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return those of a run's evaluations that its rows lack; ConfigError if of other weights.

    there: its rows in the file. found: its evaluations here.
    """
    first, cells = there[0], {cell_of(row): row for row in there}
    alike = [row for row in found if row["precision"] == first["precision"]]
    if not alike:
        raise ConfigError(
            f"the rows of {first['run']} are in {first['precision']}, evaluations here are not; "
            f"add precision={first['precision']}, or remove the rows"
        )
    for row in alike:
        known = cells.get(cell_of(row))
        is_same = row["variant"] == first["variant"] and (
            known is None or not abs(float(known["nll"] or "nan") - row["nll"]) > SAME_NLL
        )
        if not is_same:
            raise ConfigError(
                f"the checkpoint of {row['run']} is not that of its rows in the results file; "
                "remove the rows, so that all are made anew"
            )
    return [row for row in alike if cell_of(row) not in cells]


def add_rows(path: Path, rows: Sequence[Mapping[str, Any]], run: str) -> None:
    """Append rows of a run to a results file; ConfigError if others changed it meanwhile."""
    make_folder(path.parent)
    if not path.exists():
        write_csv(path, ALL_COLUMNS, ())
    if not append_csv(path, [ALL_COLUMNS], rows):
        raise ConfigError(f"results: {path} changed while the study ran; nothing was added to it")
    say(f"{path}: {len(rows)} rows of {run} added")


def by_document(result: EvalResult) -> str:
    """Return total nats / scored tokens of each document of a result; "" if it has no number."""
    if not result.ok:
        return ""
    losses = result.losses()
    texts = []
    for number in sorted(range(len(losses.names)), key=lambda n: losses.names[n]):
        own = losses.nats[losses.document == number].astype(np.float64)
        texts.append(f"{own.sum():.4f}/{len(own)}")
    return " ".join(texts)


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
