"""Single tokens of answers: how many are right, by problem length and by place in the answer.

Where no answer is right in every token, these say how much of the answers is, and where.
"""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from lexp.display.document import Chart, Curve, Point
from lexp.display.table import Table, TableCell
from lexp.evaluate import TaskResult
from lexp.report.tasks import (
    TaskSeries,
    all_lengths,
    cell_without_number,
    length_heads,
    lengths_of,
    make_task_series,
    percent,
)

# A place that fewer answers have is left out: its share would say little.
LEAST_ANSWERS = 20


def token_table(results: Sequence[TaskResult], notes: Mapping[str, str]) -> Table:
    """Make a row per (variant, method), a column per problem length, of one task."""
    all_series = make_task_series([r for r in results if not r.second_length], notes)
    lengths = all_lengths(all_series)
    rows = [
        (
            TableCell(series.name),
            TableCell(series.row_method),
            *[_cell(series, length) for length in lengths],
        )
        for series in all_series
    ]
    title = f"{results[0].task.label}: single answer tokens right in %, by problem length"
    return Table(title, ("model", "method", *length_heads(all_series)), tuple(rows), 2)


def _cell(series: TaskSeries, length: int) -> TableCell:
    """Return the median seed, and with several seeds the best one."""
    if (without := cell_without_number(series, length)) is not None:
        return without
    shares = [result.measures.token_accuracy for result in series.results[length].values()]
    best = f" ({percent(max(shares))})" * (len(shares) > 1)
    return TableCell(percent(statistics.median(shares)) + best)


def place_chart(results: Sequence[TaskResult], notes: Mapping[str, str]) -> Chart | None:
    """Draw the share of right tokens by place in the answer, of models as they were trained.

    The length is the first that was asked beyond the trained ones, or the longest. None without
    stored answers of it.
    """
    all_series = make_task_series([r for r in results if not r.second_length], notes)
    plain = [series for series in all_series if series.is_plain]
    lengths = all_lengths(plain)
    trained = max((series.trained_length for series in plain), default=0)
    length = next((n for n in lengths if n > trained), max(lengths, default=0))
    curves = [
        Curve(series.name, series.row_method, points)
        for series in plain
        if length in lengths_of(series) and (points := _by_place(series, length))
    ]
    if not curves:
        return None
    title = f"{results[0].task.label}: right tokens by place in the answer, problems of length"
    return Chart(
        f"{title} {length}", "place in the answer, from 1", "right in %, median seed", False, False,
        tuple(curves), absolute=True, decimals=1, y_ends=(0.0, 100.0),
    )  # fmt: skip


def _by_place(series: TaskSeries, length: int) -> tuple[Point, ...]:
    """Return the median seed's share of right tokens at each place, and the worst and best."""
    stored = [r for r in series.results[length].values() if r.ok and r.arrays is not None]
    shares: list[np.ndarray] = []
    for result in stored:
        scores = result.scores()
        n_answers = np.bincount(scores.place)
        n_places = int(np.count_nonzero(n_answers >= min(LEAST_ANSWERS, result.examples)))
        shares.append((np.bincount(scores.place, scores.right) / n_answers)[:n_places])
    # The same problems are asked of every seed, so all have the same places.
    points = []
    for place, of_place in enumerate(100 * np.transpose(shares), 1):
        low, middle, high = (float(pick(of_place)) for pick in (np.min, np.median, np.max))
        points.append(Point(place, middle, low, high))
    return tuple(points)
