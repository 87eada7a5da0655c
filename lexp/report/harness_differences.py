"""Differences of methods on a task of lm-evaluation-harness, paired by question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lexp.display.table import Table, TableCell
from lexp.evaluate.harness_result import EXP_OF_MEAN, HarnessResult, HarnessValue, QuestionValues
from lexp.extension import Extension
from lexp.report.differences import SURE
from lexp.report.harness_rows import column_of, columns, head, labels, place, shown_values
from lexp.report.numbers import interval_text, p_text
from lexp.report.study_results import AS_TRAINED, PLAIN
from lexp.statistics import PairedMean, holm, paired_mean
from lexp.system.text import counted

Column = tuple[str, str, str]


@dataclass(frozen=True)
class Paired:
    """What a method makes of a measure: its difference from plain attention."""

    value: HarnessValue
    difference: PairedMean


def differences_table(results: Sequence[HarnessResult], notes: Mapping[str, str]) -> Table | None:
    """Compare methods with plain attention of the same run and length; None without such pairs.

    results: of one task, as it was asked for.
    """
    ordered = sorted((r for r in results if r.ok), key=lambda r: place(r, notes))
    bases = _bases(ordered)
    pairs = [
        (result, base) for result in ordered
        if (base := bases.get(_same(result))) and base is not result and _is_alike(result, base)
    ]  # fmt: skip
    rows = {n: _paired(result, base) for n, (result, base) in enumerate(pairs)}
    shown = [c for c in columns(ordered) if any(c in of_row for of_row in rows.values())]
    p_values = {
        f"{n} {column}": of_row[column].difference.p
        for n, of_row in rows.items() for column in shown if column in of_row
    }  # fmt: skip
    if not p_values:
        return None
    adjusted = {test.name: test.adjusted for test in holm(p_values, "methods")}
    filled = []
    for n, (result, _) in enumerate(pairs):
        cells: list[TableCell] = []
        for column in shown:
            cells += _cells(rows[n].get(column), adjusted.get(f"{n} {column}", 1.0))
        filled.append((*labels(result, results, notes), *cells))
    plain = pairs[0][1].method
    is_log = {column_of(v): v.follows == EXP_OF_MEAN for r in ordered for v in shown_values(r)}
    heads = [
        text for column in shown
        for text in ("log " * is_log[column] + head(column, shown), "p (Holm)")
    ]  # fmt: skip
    note = (
        f"Difference from {plain} attention of the same run and length on the same questions, with "
        "a 95 % interval over questions (paired t); of a perplexity the difference of logarithms. "
        f"p: corrected for {counted(len(p_values), 'comparison')}. Bold: better than {plain} also "
        "after the correction."
    )
    title = f"{results[0].asked}: minus {plain} attention, paired by question"
    return Table(title, ("model", "method", "length", *heads), tuple(filled), 3, (note,))


def _same(result: HarnessResult) -> tuple[str, int]:
    """Return what a result and the plain one that it is compared with have in common."""
    return result.run.name, result.length


def _bases(results: Sequence[HarnessResult]) -> dict[tuple[str, int], HarnessResult]:
    """Return the results of plain attention; of attention as trained where there are none."""
    bases: dict[tuple[str, int], HarnessResult] = {}
    unchanged = [r for r in results if r.extension.name == Extension.name and not r.extension.code]
    for names in (PLAIN, (AS_TRAINED,)):
        for result in unchanged:
            if result.pattern.name in names and not result.pattern.code:
                bases.setdefault(_same(result), result)
    return bases


def _is_alike(a: HarnessResult, b: HarnessResult) -> bool:
    return (a.requests, a.harness) == (b.requests, b.harness)


def _paired(result: HarnessResult, base: HarnessResult) -> dict[Column, Paired]:
    """Return the differences of all measures that follow from values of questions."""
    theirs = _by_column(base)
    found = {}
    for column, (value, ours) in _by_column(result).items():
        plain = theirs[column][1] if column in theirs else None
        if plain is not None and np.array_equal(ours.sizes, plain.sizes):
            found[column] = Paired(value, paired_mean(ours.sums, plain.sums, ours.sizes))
    return found


def _by_column(result: HarnessResult) -> dict[Column, tuple[HarnessValue, QuestionValues]]:
    shown = set(map(column_of, shown_values(result)))
    return {
        column_of(value): (value, questions)
        for n, questions in result.of_questions().items()
        if column_of(value := result.values[n]) in shown
    }


def _cells(paired: Paired | None, adjusted: float) -> tuple[TableCell, TableCell]:
    """Return a difference with its interval, and p."""
    if paired is None:
        return TableCell(""), TableCell("")
    difference, higher_is_better = paired.difference, paired.value.higher_is_better
    is_better = higher_is_better is not None and (difference.value > 0) == higher_is_better
    style = "best" if is_better and adjusted < SURE else ""
    return TableCell(interval_text(difference), style), TableCell(p_text(adjusted))
