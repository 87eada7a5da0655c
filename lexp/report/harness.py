"""Tasks of lm-evaluation-harness as tables: a row per run, method and length."""

import math
from collections.abc import Mapping, Sequence

from lexp.display.table import Table, TableCell
from lexp.evaluate.harness_result import OWN_SHOTS, HarnessResult, HarnessValue
from lexp.report.perplexity_table import SHORT
from lexp.report.study_results import method_rank
from lexp.system.text import counted, natural

UP, DOWN = "higher is better", "lower is better"


def harness_tables(results: Sequence[HarnessResult], notes: Mapping[str, str]) -> list[Table]:
    """Make a table of each task or group that was asked for, as it was asked.

    Each measure has its standard error and the chance level beside it. notes: by variant, what
    tells it from others of its model.
    """
    groups: dict[tuple, list[HarnessResult]] = {}
    for result in results:
        key = result.asked, result.shots, result.limit, result.run.precision
        groups.setdefault(key, []).append(result)
    return [_table(same, notes) for same in groups.values()]


def _table(results: Sequence[HarnessResult], notes: Mapping[str, str]) -> Table:
    columns = _columns(results)
    several_seeds = len({result.run.seed for result in results}) > 1
    rows = []
    for result in sorted(results, key=lambda r: _place(r, notes)):
        name = " ".join(filter(None, (result.run.model, notes.get(result.run.variant, ""))))
        seed = f" seed {result.run.seed}" * several_seeds
        values = {_column(value): value for value in shown_values(result)}
        cells = [cell for column in columns for cell in _cells(result, values.get(column))]
        rows.append(
            (
                TableCell(name + seed),
                TableCell(result.method),
                TableCell(_length(result)),
                *(cells or [TableCell(SHORT[result.status], "failed")]),
            )
        )
    heads = [head for column in columns for head in (_head(column, columns), "±", "chance")]
    return Table(
        _title(results),
        ("model", "method", "length", *(heads or ["value"])),
        tuple(rows),
        3,
        _reasons(results),
    )


def shown_values(result: HarnessResult) -> list[HarnessValue]:
    """Return the values that a table shows: of a group those over all its tasks, if it has some."""
    own = [value for value in result.values if value.task == result.asked]
    return own or list(result.values)


def _column(value: HarnessValue) -> tuple[str, str, str]:
    return value.task, value.metric, value.filter


def _columns(results: Sequence[HarnessResult]) -> list[tuple[str, str, str]]:
    found = [_column(value) for result in results for value in shown_values(result)]
    return list(dict.fromkeys(found))


def _head(column: tuple[str, str, str], columns: Sequence[tuple[str, str, str]]) -> str:
    """Return the name of a measure, with its task and filter where there are several."""
    task, metric, filter_name = column
    several_tasks = len({one[0] for one in columns}) > 1
    several_filters = len({one[2] for one in columns if one[:2] == column[:2]}) > 1
    words = [task] * several_tasks + [metric] + [filter_name] * several_filters
    return " ".join(words)


def _cells(result: HarnessResult, value: HarnessValue | None) -> list[TableCell]:
    """Return value, standard error and chance level; what no number is known of is a dash."""
    if value is None:
        text = "" if result.ok else SHORT[result.status]
        return [TableCell(text, "failed"), TableCell(""), TableCell("")]
    sure = value.higher_is_better is True and value.value - 1.96 * value.stderr > value.chance
    return [
        TableCell(number(value.value), "best" if sure else ""),
        TableCell(number(value.stderr)),
        TableCell(number(value.chance)),
    ]


def number(value: float) -> str:
    """Format a value: four decimals below 10, as the harness does, fewer for larger ones."""
    if math.isnan(value):
        return "-"
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _length(result: HarnessResult) -> str:
    mark = " (trained)" * (result.length == result.run.train_len)
    return f"{result.length}{mark}"


def _place(result: HarnessResult, notes: Mapping[str, str]) -> tuple:
    note = notes.get(result.run.variant, "")
    return (
        result.run.model, natural(note), result.run.seed, method_rank(result.method),
        result.method, result.length,
    )  # fmt: skip


def _title(results: Sequence[HarnessResult]) -> str:
    first = results[0]
    values = [value for result in results for value in shown_values(result)]
    words = [f"{shots}-shot" for shots in sorted({value.shots for value in values})[:1]]
    if not words and first.shots != OWN_SHOTS:
        words = [f"{first.shots}-shot"]
    sizes = sorted({value.documents for value in values if value.documents})
    words += [counted(sizes[-1], "question")] if sizes else []
    words += [f"limit={first.limit}"] if first.limit else []
    words += [f"in {first.run.precision}"]
    return f"{first.asked}: {', '.join(words)}"


def _reasons(results: Sequence[HarnessResult]) -> tuple[str, ...]:
    """Return why there are no numbers, a line for each reason."""
    reasons: dict[tuple[str, str], set[str]] = {}
    for result in (r for r in results if not r.ok):
        reasons.setdefault((SHORT[result.status], result.reason), set()).add(result.run.model)
    return tuple(
        f"{short} ({', '.join(sorted(models))}): {why}."
        for (short, why), models in sorted(reasons.items())
    )


def harness_caption(results: Sequence[HarnessResult]) -> list[str]:
    """Write what stands below the tables: how to read them."""
    versions = sorted({result.harness for result in results})
    return [
        f"Values and standard errors (±) of lm-evaluation-harness {', '.join(versions)}, over the "
        "questions of a task and not over seeds. Chance: choosing at random; - where no such value "
        "exists. Bold: the value less 1.96 standard errors is above chance.",
        "Length: tokens read at most; a longer text loses its beginning.",
    ]
