"""Tasks of lm-evaluation-harness as tables: a row per run, method and length."""

import math
from collections.abc import Mapping, Sequence

from lexp.display.table import Table, TableCell
from lexp.evaluate.harness_result import OWN_SHOTS, HarnessResult, HarnessValue
from lexp.report.harness_differences import differences_table
from lexp.report.harness_rows import column_of, columns, head, labels, place, shown_values
from lexp.report.perplexity_table import SHORT
from lexp.system.text import counted

UP, DOWN = "higher is better", "lower is better"


def harness_tables(results: Sequence[HarnessResult], notes: Mapping[str, str]) -> list[Table]:
    """Make a table of each task or group that was asked for, as it was asked.

    Each measure has its standard error and the chance level beside it. The paired differences of
    methods, if there are some, follow as a table. notes: by variant, what tells it from others of
    its model.
    """
    groups: dict[tuple, list[HarnessResult]] = {}
    for result in results:
        key = result.asked, result.shots, result.limit, result.run.precision
        groups.setdefault(key, []).append(result)
    tables = []
    for same in groups.values():
        differences = differences_table(same, notes)
        tables += [_table(same, notes), *([differences] if differences else [])]
    return tables


def _table(results: Sequence[HarnessResult], notes: Mapping[str, str]) -> Table:
    shown = columns(results)
    rows = []
    for result in sorted(results, key=lambda r: place(r, notes)):
        values = {column_of(value): value for value in shown_values(result)}
        cells = [cell for column in shown for cell in _cells(result, values.get(column))]
        rows.append(
            (
                *labels(result, results, notes),
                *(cells or [TableCell(SHORT[result.status], "failed")]),
            )
        )
    heads = [text for column in shown for text in (head(column, shown), "±", "chance")]
    return Table(
        _title(results),
        ("model", "method", "length", *(heads or ["value"])),
        tuple(rows),
        3,
        _reasons(results),
    )


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


def _title(results: Sequence[HarnessResult]) -> str:
    first = results[0]
    values = [value for result in results for value in shown_values(result)]
    of_tasks = [value for result in results for value in result.values if not value.is_group]
    # The harness counts no examples of a group: they are those of its tasks.
    shots = ({value.shots for value in of_tasks or values} or {first.shots}) - {OWN_SHOTS}
    words = [" and ".join(f"{n}-shot" for n in sorted(shots))] if shots else []
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
