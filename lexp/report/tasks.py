"""Tasks as tables, curves and sentences: exact match by problem length, seed by seed.

Over seeds, answers to longer problems are often nearly all right or nearly all wrong. So there is
no mean: a cell shows the median seed, the best one, and how many reach 90 %.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lexp.data.tasks.base import Length
from lexp.display.document import Chart, Curve, Point
from lexp.display.table import Table, TableCell
from lexp.evaluate import TaskResult
from lexp.extension import Extension
from lexp.report.perplexity_table import SHORT
from lexp.report.study_results import AS_TRAINED, PLAIN, method_rank
from lexp.runs.run import Run, variant_notes
from lexp.statistics.shares import wilson
from lexp.system.text import counted, natural

# A run has learned its task if it answers so many problems of the trained lengths.
LEARNED = 0.95
# A seed generalises to a length if it answers so many problems of it.
HOLDS = 0.9


@dataclass(frozen=True)
class TaskSeries:
    """A variant under one method on one task: results by problem length, then by seed.

    note: what tells the variant from others of its model, or "". where: what tells precision and
    number of problems from others of the table, or "".
    """

    model: str
    note: str
    method: str
    is_plain: bool
    trained_length: int
    variant: str
    where: str = ""
    results: dict[Length, dict[int, TaskResult]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the model, with what tells its variant apart."""
        return " ".join(filter(None, (self.model, self.note)))

    @property
    def row_method(self) -> str:
        """Return the method, and where, if that is not the same everywhere."""
        return f"{self.method} {self.where}".rstrip()

    @property
    def seeds(self) -> list[int]:
        """Return every seed that any length has, ascending."""
        return sorted({seed for by_seed in self.results.values() for seed in by_seed})

    def shares(self, length: Length) -> list[float]:
        """Return the exact match of each seed at a length; [] if one of them has no number."""
        results = self.results.get(length, {})
        if not all(result.ok for result in results.values()):
            return []
        return [results[seed].measures.exact_match for seed in sorted(results)]

    def exact_match(self, seed: int) -> float:
        """Return a seed's share of right answers within the trained lengths; NaN if none was asked.

        Every length counts alike, as in training.
        """
        asked = [by_seed[seed] for by_seed in self.results.values() if seed in by_seed
                 and by_seed[seed].length <= self.trained_length]  # fmt: skip
        shares = [result.measures.exact_match for result in asked if result.ok]
        return statistics.fmean(shares) if shares else math.nan


def by_task(
    results: Sequence[TaskResult], runs: Sequence[Run]
) -> list[tuple[list[TaskResult], dict[str, str]]]:
    """Return results by task, as different tasks never share a table, each with notes of its own.

    notes: by variant, what tells it from others of its model that were trained on the same task.
    """
    groups: dict[str, list[TaskResult]] = {}
    for result in results:
        groups.setdefault(result.task.label, []).append(result)
    found = []
    for same in groups.values():
        names = {result.run.name for result in same}
        notes = variant_notes(run.made_of for run in runs if run.name in names)
        found.append((same, notes))
    return found


def make_task_series(results: Sequence[TaskResult], notes: Mapping[str, str]) -> list[TaskSeries]:
    """Put results of one task together that differ in seed and length alone; notes: by variant."""
    by_key: dict[tuple, TaskSeries] = {}
    several_counts = len({result.examples for result in results}) > 1
    several_precisions = len({result.run.precision for result in results}) > 1
    with_full = {r.run.variant for r in results if r.pattern.name in PLAIN and r.ok}
    for result in results:
        run = result.run
        is_own = bool(result.pattern.code or result.extension.code)
        is_full = result.pattern.name in PLAIN or (
            result.pattern.name == AS_TRAINED and run.variant not in with_full
        )
        is_plain = is_full and result.extension.name == Extension.name
        key = run.model, run.variant, result.method, run.precision, result.examples
        where = [f"of {result.examples} problems"] * several_counts
        where += [f"in {run.precision}"] * several_precisions
        series = by_key.setdefault(
            key,
            TaskSeries(
                run.model, notes.get(run.variant, ""), result.method, is_plain and not is_own,
                result.trained_length, run.variant, " ".join(where),
            ),
        )  # fmt: skip
        series.results.setdefault(result.problem_length, {})[run.seed] = result
    return sorted(
        by_key.values(),
        key=lambda s: (s.model, natural(s.note), method_rank(s.method)),
    )


def learned_seeds(series: Sequence[TaskSeries]) -> dict[tuple[str, int], bool | None]:
    """Return, by variant and seed, whether a run has learned its task; None: not asked.

    What counts are its answers as it was trained, at the trained lengths.
    """
    learned: dict[tuple[str, int], bool | None] = {}
    for one in series:
        for seed in one.seeds:
            learned.setdefault((one.variant, seed), None)
            if one.is_plain and not math.isnan(share := one.exact_match(seed)):
                learned[one.variant, seed] = share >= LEARNED
    return learned


def reach(series: TaskSeries) -> int | None:
    """Return the longest length at which the median seed answers 90 %; None if there is none."""
    held = [
        length
        for length in lengths_of(series)
        if (shares := series.shares(length)) and statistics.median(shares) >= HOLDS
    ]
    return max(held, default=None)


def lengths_of(series: TaskSeries) -> list[int]:
    """Return the problem lengths of a series, ascending, without pairs of lengths."""
    return sorted(length for length in series.results if isinstance(length, int))


def all_lengths(all_series: Sequence[TaskSeries]) -> list[int]:
    """Return the problem lengths of all series, ascending."""
    return sorted({length for series in all_series for length in lengths_of(series)})


def length_heads(all_series: Sequence[TaskSeries]) -> list[str]:
    """Return the heads of the columns for problem lengths; the longest trained one is marked."""
    longest = {series.trained_length for series in all_series}
    return [f"{n} (trained)" if longest == {n} else str(n) for n in all_lengths(all_series)]


def task_table(results: Sequence[TaskResult], notes: Mapping[str, str]) -> Table:
    """Make a row per (variant, method), a column per problem length, of one task.

    What a row says stands before the lengths: on a narrow screen the last of them are out of sight.
    Pairs of lengths are not in it: see lexp.report.task_grid.
    """
    all_series = make_task_series([r for r in results if not r.second_length], notes)
    learned = learned_seeds(all_series)
    lengths = all_lengths(all_series)
    rows = []
    for series in all_series:
        states = [learned[series.variant, seed] for seed in series.seeds]
        rows.append(
            (
                TableCell(series.name),
                TableCell(series.row_method),
                _learned_cell(states),
                TableCell(str(reach(series) or "-")),
                *[_cell(series, length) for length in lengths],
            )
        )
    title = f"{results[0].task.label}: exact match in % by problem length"
    names = ("model", "method", "learned", "reach", *length_heads(all_series))
    return Table(title, names, tuple(rows), 2, _reasons(results))


def _reasons(results: Sequence[TaskResult]) -> tuple[str, ...]:
    """Return why cells have no number, a line for each reason."""
    reasons: dict[tuple[str, str], set[str]] = {}
    for result in (r for r in results if not r.ok):
        reasons.setdefault((SHORT[result.status], result.reason), set()).add(result.run.model)
    return tuple(
        f"{short} ({', '.join(sorted(models))}): {why}."
        for (short, why), models in sorted(reasons.items())
    )


def _learned_cell(states: Sequence[bool | None]) -> TableCell:
    """Return how many of the seeds have learned the task."""
    if any(state is None for state in states):
        return TableCell("not known", "muted")
    n = sum(map(bool, states))
    if len(states) == 1:
        return TableCell("yes") if n else TableCell("no", "failed")
    return TableCell(f"{n} of {len(states)}", "" if n == len(states) else "failed")


def cell_without_number(series: TaskSeries, length: int) -> TableCell | None:
    """Return the cell of a length that was not asked, or where some seed has no number."""
    by_seed = series.results.get(length, {})
    if not by_seed:
        return TableCell("")
    failed = [result for result in by_seed.values() if not result.ok]
    if not failed:
        return None
    some = f" {len(failed)}/{len(by_seed)}" * (len(failed) < len(by_seed))
    return TableCell(SHORT[failed[0].status] + some, "failed")


def _cell(series: TaskSeries, length: int) -> TableCell:
    """Return the median seed, and with several seeds the best, and how many reach 90 %."""
    if (without := cell_without_number(series, length)) is not None:
        return without
    shares = series.shares(length)
    median = statistics.median(shares)
    style = "best" if median >= HOLDS else ""
    if len(shares) == 1:
        return TableCell(percent(median), style)
    n_hold = sum(share >= HOLDS for share in shares)
    text = f"{percent(median)} ({percent(max(shares))}; {n_hold}/{len(shares)})"
    return TableCell(text, style)


def percent(share: float) -> str:
    """Format a share in percent; 100 and 0 only where all answers are right, or none is."""
    if 0 < share < 1:
        return f"{min(max(100 * share, 0.1), 99.9):.1f}"
    return f"{100 * share:.0f}"


def task_chart(results: Sequence[TaskResult], notes: Mapping[str, str]) -> Chart:
    """Draw the median seed by problem length, and every seed as a faint dot."""
    all_series = make_task_series([r for r in results if not r.second_length], notes)
    curves = []
    for series in all_series:
        points = []
        for length in lengths_of(series):
            shares = series.shares(length)
            if not shares:
                points.append(Point(length, math.nan, note="no number"))
                continue
            low, high = _spread(series, length)
            seeds = ", ".join(percent(share) for share in shares)
            each = tuple(100 * share for share in shares) if len(shares) > 1 else ()
            median = 100 * statistics.median(shares)
            points.append(Point(length, median, low, high, seeds, each))
        curves.append(Curve(series.name, series.row_method, tuple(points)))
    trained = sorted({series.trained_length for series in all_series})
    marks = tuple((float(n), f"trained to {n}") for n in trained)
    title = f"{results[0].task.label}: exact match by problem length"
    has_dots = any(point.each for curve in curves for point in curve.points)
    y_label = "exact match in %, median seed" + " (dots: each seed)" * has_dots
    return Chart(
        title, "problem length", y_label, False, False, tuple(curves),
        marks, absolute=True, decimals=1, y_ends=(0.0, 100.0),
    )  # fmt: skip


def _spread(series: TaskSeries, length: int) -> tuple[float, float]:
    """Return the worst and the best seed in %; of one seed, the interval over examples."""
    shares = series.shares(length)
    if len(shares) > 1:
        return 100 * min(shares), 100 * max(shares)
    (result,) = series.results[length].values()
    return 100 * result.measures.low, 100 * result.measures.high


def tasks_caption(results: Sequence[TaskResult]) -> list[str]:
    """Write what stands below the tables: how to read them."""
    seeds = sorted({result.run.seed for result in results})
    counts = sorted({result.examples for result in results})
    examples = f"{counts[0]} to " * (len(counts) > 1) + counted(counts[-1], "problem")
    low, high = wilson(counts[0] // 2, counts[0])
    cells = "A cell: answers that are right in every token"
    if len(seeds) > 1:
        listed = ", ".join(map(str, seeds))
        cells += f", of the median seed (best seed; seeds with at least 90 %); seeds {listed}"
    return [
        f"{cells}. {examples} a cell, the same for all rows, and not trained on where a "
        f"length has enough of them; 95 % interval at most ±{50 * (high - low):.0f} points.",
        f"Learned: at least {100 * LEARNED:.0f} % right at the trained lengths, with the attention "
        "that the run was trained with. Reach: the longest length at which the median seed has at "
        f"least {100 * HOLDS:.0f} % right.",
    ]
