"""Exact match of tasks with two operands at pairs of their lengths, as a heat map."""

import statistics
from collections.abc import Mapping, Sequence

from lexp.display.heat import SHARES
from lexp.display.table import Table, TableCell
from lexp.evaluate import TaskResult
from lexp.report.perplexity_table import SHORT
from lexp.report.tasks import TaskSeries, learned_seeds, make_task_series, percent


def task_grid(results: Sequence[TaskResult], notes: Mapping[str, str]) -> Table | None:
    """Make rows per (variant, method) with a row per length n of the first operand, columns m.

    The pairs of which training had both lengths are framed. None if no pairs were asked.
    """
    pairs = [result for result in results if result.second_length]
    if not pairs:
        return None
    all_series = make_task_series(pairs, notes)
    learned = learned_seeds(make_task_series([r for r in results if not r.second_length], notes))
    longest = {series.trained_length for series in all_series}
    firsts = sorted({result.length for result in pairs})
    seconds = sorted({result.second_length for result in pairs})
    rows = []
    for series in all_series:
        states = [learned.get((series.variant, seed)) for seed in series.seeds]
        unlearned = " (not learned)" * any(state is False for state in states)
        for first in firsts:
            if any((first, second) in series.results for second in seconds):
                rows.append(
                    (
                        TableCell(series.name + unlearned),
                        TableCell(series.row_method),
                        TableCell(_head("n", first, longest)),
                        *[_cell(series, first, second) for second in seconds],
                    )
                )
    trained = " or ".join(map(str, sorted(longest)))
    several = len({result.run.seed for result in pairs}) > 1
    notes_below = (
        f"n and m: the lengths of the first and the second operand. Trained: both up to {trained} "
        "(framed on the page and in the picture)." + " A cell: the median seed." * several,
    )
    return Table(
        f"{results[0].task.label}: exact match in % by both lengths, n x m",
        ("model", "method", "first", *[_head("m", second, longest) for second in seconds]),
        tuple(rows), 3, notes_below,
    )  # fmt: skip


def _head(letter: str, length: int, longest: set[int]) -> str:
    return f"{letter}={length}" + " (trained)" * (longest == {length})


def _cell(series: TaskSeries, first: int, second: int) -> TableCell:
    """Return the median seed; a failure if any seed has no number."""
    by_seed = series.results.get((first, second), {})
    is_trained = max(first, second) <= series.trained_length
    if not by_seed:
        return TableCell("")
    failed = next((result for result in by_seed.values() if not result.ok), None)
    if failed:
        return TableCell(SHORT[failed.status], "failed", is_trained)
    share = statistics.median(series.shares((first, second)))
    return TableCell(percent(share), SHARES.style(100 * share), is_trained)
