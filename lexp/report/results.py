"""results.csv, probes.csv, tasks.csv and harness.csv: every result of a study.

A new result is appended; at its end a command writes the table anew from what is stored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lexp.evaluate import (
    COLUMNS,
    EVALUATIONS,
    LAST,
    STEP,
    TASKS,
    EvalResult,
    TaskResult,
    task_result,
)
from lexp.evaluate import harness_result as harness
from lexp.probes import result as probes
from lexp.report.weights import of_present_weights
from lexp.result_store import append_csv, read_all, read_newest, write_csv
from lexp.runs.locks import one_at_a_time


def stored_evaluations(study: Path) -> list[EvalResult]:
    """Return all evaluations of a study's runs as they are now, failures included, in order."""
    results = of_present_weights(
        study, read_all(study, EVALUATIONS), lambda r: (r.run.name, r.step)
    )
    results.sort(
        key=lambda r: (
            r.run.name, r.pattern.label, r.extension.label, r.protocol.label, r.documents,
            r.tokens, r.scored.targets, r.length, r.step,
        )
    )  # fmt: skip
    return results


def stored_probes(study: Path) -> list[probes.ProbeResult]:
    """Return all probes of a study's runs as they are now, in order."""
    results = of_present_weights(
        study, read_all(study, probes.PROBES), lambda r: (r.run.name, LAST)
    )
    results.sort(
        key=lambda r: (
            r.probe.label, r.run.name, r.pattern.label, r.extension.label, r.samples,
            r.probe_seed, r.length,
        )
    )  # fmt: skip
    return results


def stored_tasks(study: Path) -> list[TaskResult]:
    """Return all evaluations of tasks of a study's runs as they are now, in order."""
    results = of_present_weights(study, read_all(study, TASKS), lambda r: (r.run.name, r.step))
    results.sort(
        key=lambda r: (
            r.task.label, r.run.name, r.pattern.label, r.extension.label, r.examples,
            r.length, r.second_length, r.step,
        )
    )  # fmt: skip
    return results


class StoredRows(NamedTuple):
    """Stored results as a table has them."""

    columns: list[str]
    rows: list[dict[str, Any]]


def evaluation_rows(study: Path) -> StoredRows:
    """Return the rows of results.csv."""
    results = stored_evaluations(study)
    columns = [*COLUMNS, *[STEP] * any(result.step != LAST for result in results)]
    return StoredRows(columns, _once([result.row() for result in results]))


def probe_rows(study: Path) -> StoredRows:
    """Return the rows of probes.csv."""
    return StoredRows(list(probes.COLUMNS), _once([r.row() for r in stored_probes(study)]))


def task_rows(study: Path) -> StoredRows:
    """Return the rows of tasks.csv."""
    return StoredRows(list(task_result.COLUMNS), _once([r.row() for r in stored_tasks(study)]))


def harness_rows(study: Path) -> StoredRows:
    """Return the rows of harness.csv.

    A task that failed and then did not is not shown as failed.
    """
    results = of_present_weights(
        study, read_newest(study, harness.HARNESS), lambda r: (r.run.name, LAST)
    )
    results.sort(
        key=lambda r: (
            r.asked, r.run.name, r.pattern.label, r.extension.label, r.shots, r.limit, r.length,
        )
    )  # fmt: skip
    rows = [row for result in results for row in result.rows()]
    return StoredRows(list(harness.COLUMNS), _once(rows))


def write_results(study: Path) -> None:
    """Write <study>/results.csv with all evaluations of the study's runs, failures included."""
    with one_at_a_time(study):  # or a table gathered before another job's last result could win
        write_csv(study / "results.csv", *evaluation_rows(study))


def append_results(study: Path, results: Sequence[EvalResult]) -> None:
    """Append new evaluations to <study>/results.csv."""
    has_steps = any(result.step != LAST for result in results)
    headers = [(*COLUMNS, STEP), *[COLUMNS] * (not has_steps)]
    with one_at_a_time(study):
        done = append_csv(study / "results.csv", headers, [result.row() for result in results])
    if not done:
        write_results(study)


def append_probes(study: Path, results: Sequence[probes.ProbeResult]) -> None:
    """Append new probes to <study>/probes.csv."""
    rows = [result.row() for result in results]
    with one_at_a_time(study):
        done = append_csv(study / "probes.csv", [probes.COLUMNS], rows)
    if not done:
        write_probes(study)


def write_probes(study: Path) -> None:
    """Write <study>/probes.csv with all probes of the study's runs, failures included."""
    with one_at_a_time(study):
        write_csv(study / "probes.csv", *probe_rows(study))


def append_tasks(study: Path, results: Sequence[TaskResult]) -> None:
    """Append new evaluations of tasks to <study>/tasks.csv."""
    rows = [result.row() for result in results]
    with one_at_a_time(study):
        done = append_csv(study / "tasks.csv", [task_result.COLUMNS], rows)
    if not done:
        write_tasks(study)


def write_tasks(study: Path) -> None:
    """Write <study>/tasks.csv with all evaluations of tasks, failures included."""
    with one_at_a_time(study):
        write_csv(study / "tasks.csv", *task_rows(study))


def append_harness(study: Path, results: Sequence[harness.HarnessResult]) -> None:
    """Append new results of a harness to <study>/harness.csv."""
    rows = [row for result in results for row in result.rows()]
    with one_at_a_time(study):
        done = append_csv(study / "harness.csv", [harness.COLUMNS], rows)
    if not done:
        write_harness(study)


def write_harness(study: Path) -> None:
    """Write <study>/harness.csv with the newest results of a harness, failures included."""
    with one_at_a_time(study):
        write_csv(study / "harness.csv", *harness_rows(study))


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without repetitions: a copy of a run folder has the results of its run too."""
    return list({repr(row): row for row in rows}.values())
