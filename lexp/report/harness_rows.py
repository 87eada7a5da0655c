"""Rows and columns of tables of lm-evaluation-harness: what names and orders them."""

from collections.abc import Mapping, Sequence

from lexp.display.table import TableCell
from lexp.evaluate.harness_result import HarnessResult, HarnessValue
from lexp.report.study_results import method_rank
from lexp.system.text import natural


def shown_values(result: HarnessResult) -> list[HarnessValue]:
    """Return the values that a table shows: of a group those over all its tasks, if it has some."""
    own = [value for value in result.values if value.task == result.asked]
    return own or list(result.values)


def labels(
    result: HarnessResult, results: Sequence[HarnessResult], notes: Mapping[str, str]
) -> tuple[TableCell, TableCell, TableCell]:
    """Return model, method and length of a row; the seed too if the table has several."""
    name = " ".join(filter(None, (result.run.model, notes.get(result.run.variant, ""))))
    several_seeds = len({other.run.seed for other in results}) > 1
    seed = f" seed {result.run.seed}" * several_seeds
    return TableCell(name + seed), TableCell(result.method), TableCell(_length(result))


def column_of(value: HarnessValue) -> tuple[str, str, str]:
    """Return what tells a value from others of its table."""
    return value.task, value.metric, value.filter


def columns(results: Sequence[HarnessResult]) -> list[tuple[str, str, str]]:
    """Return the columns of a table in the order of the harness."""
    found = [column_of(value) for result in results for value in shown_values(result)]
    return list(dict.fromkeys(found))


def head(column: tuple[str, str, str], columns: Sequence[tuple[str, str, str]]) -> str:
    """Return the name of a measure, with its task and filter where there are several."""
    task, metric, filter_name = column
    several_tasks = len({one[0] for one in columns}) > 1
    several_filters = len({one[2] for one in columns if one[:2] == column[:2]}) > 1
    words = [task] * several_tasks + [metric] + [filter_name] * several_filters
    return " ".join(words)


def _length(result: HarnessResult) -> str:
    mark = " (trained)" * (result.length == result.run.train_len)
    return f"{result.length}{mark}"


def place(result: HarnessResult, notes: Mapping[str, str]) -> tuple:
    """Return what rows are ordered by."""
    note = notes.get(result.run.variant, "")
    return (
        result.run.model, natural(note), result.run.seed, method_rank(result.method),
        result.method, result.length,
    )  # fmt: skip
