"""Probes by the depth of the needle and the length of the text: the heat map of retrieval.

The picture of Kamradt 2023 ("Needle in a haystack"), whose cells are scores of generated answers.
Here they are gains against the control, or shares of answers that are right to the last token.
"""

import itertools
from collections.abc import Callable

import numpy as np

from lexp.display.document import UnitTables
from lexp.display.heat import GAINS, SHARES
from lexp.display.table import Table, TableCell
from lexp.probes import (
    CommonWords,
    Copy,
    FrequentWords,
    MultiQuery,
    MultiValue,
    VariableTracking,
)
from lexp.probes.result import ProbeResult
from lexp.report.probes import ProbeRow, failed_cell, length_heads, probe_rows
from lexp.report.study_results import method_rank

# Ends of the depths of a row, as shares of the length; the last includes 1.
ENDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# A table for each row would be a page of tables: the usual method and the best of the others.
MOST_BEST = 3
# Probes that plant at the beginning alone, or ask for answers of several depths at once.
SEVERAL = (MultiValue, MultiQuery, VariableTracking, CommonWords, FrequentWords)
NO_DEPTH = (Copy.name, *[kind.name for kind in SEVERAL])
UNITS = ("gain in nats", "answers right in %")

# What a cell shows of some examples: numbers [n examples] of one result.
Numbers = Callable[[ProbeResult], np.ndarray]


def depth_maps(results: list[ProbeResult], notes: dict[str, str]) -> list[UnitTables]:
    """Make a map of each shown (variant, method) of each probe that asks at many depths.

    Rows are depths, columns lengths; lengths up to the trained one are framed. notes: by variant,
    what tells it apart.
    """
    maps: list[UnitTables] = []
    for probe in dict.fromkeys(result.probe.label for result in results):
        of_probe = [result for result in results if result.probe.label == probe]
        if of_probe[0].probe.name not in NO_DEPTH and any(r.ok for r in of_probe):
            rows = probe_rows(of_probe, notes)
            shown = _shown(rows)
            left_out = len(rows) - len(shown)
            maps += [_map(probe, row, left_out) for row in shown]
    return maps


def _shown(rows: list[ProbeRow]) -> list[ProbeRow]:
    """Return a row of the most usual method, and then those of the largest gain beyond training."""
    baseline, *others = sorted(rows, key=lambda row: method_rank(row.method))
    return [baseline, *sorted(others, key=lambda row: -_gain_beyond(row))[:MOST_BEST]]


def _gain_beyond(row: ProbeRow) -> float:
    """Return the mean gain at lengths beyond the trained one; a failure gains nothing."""
    gains = [
        result.measures.gain if result.ok else 0.0
        for length, results in row.by_length.items()
        for result in results
        if length > result.run.train_len
    ]
    return float(np.mean(gains)) if gains else 0.0


def _map(probe: str, row: ProbeRow, n_left_out: int) -> UnitTables:
    title = f"{probe} by depth and length: {row.name}, {row.method}"
    return UnitTables(
        title,
        UNITS,
        (
            _table(f"{title} (gain)", row, n_left_out, _gains, _gain_cell),
            _table(f"{title} (answers right)", row, n_left_out, _right, _share_cell),
        ),
    )


def _gains(result: ProbeResult) -> np.ndarray:
    return result.scores().example_gain


def _right(result: ProbeResult) -> np.ndarray:
    return 100.0 * result.scores().correct


def _gain_cell(gain: float, framed: bool) -> TableCell:
    # Plus 0: no minus zero.
    return TableCell(f"{round(gain, 2) + 0.0:.2f}", GAINS.style(gain), framed)


def _share_cell(share: float, framed: bool) -> TableCell:
    return TableCell(f"{share:.0f}", SHARES.style(share), framed)


def _table(
    title: str,
    row: ProbeRow,
    n_left_out: int,
    numbers: Numbers,
    cell: Callable[[float, bool], TableCell],
) -> Table:
    lengths = sorted(row.by_length)
    columns = [_column(row.by_length[length], numbers, cell) for length in lengths]
    words = [f"{100 * a:.0f}-{100 * b:.0f} %" for a, b in itertools.pairwise(ENDS)]
    results = [result for same in row.by_length.values() for result in same]
    left_out = (
        f"{n_left_out} more of this probe have no map: shown are one with the most usual method "
        f"and the {MOST_BEST} others with the largest mean gain beyond the trained length."
    )
    notes = (
        "Depth: place of the planted answer, 0 % at the beginning of the text and 100 % at its "
        "end. A cell is the mean over the examples of that depth; an empty one has none. Framed: "
        "lengths seen in training.",
        *[left_out] * bool(n_left_out),
    )
    rows = zip(map(TableCell, words), *columns, strict=True)
    return Table(
        title, ("depth", *length_heads(results, lengths)), tuple(rows), 1, notes, secondary=True
    )


def _column(
    results: list[ProbeResult], numbers: Numbers, cell: Callable[[float, bool], TableCell]
) -> list[TableCell]:
    """Return the cells of one length, a mean over examples and seeds each."""
    n_depths = len(ENDS) - 1
    if failed := failed_cell(results):
        return [failed] * n_depths
    framed = all(result.length <= result.run.train_len for result in results)
    depths = np.concatenate([result.scores().depth for result in results])
    values = np.concatenate([numbers(result) for result in results])
    band = np.minimum(np.searchsorted(ENDS, depths, side="right") - 1, n_depths - 1)
    at_depth = [values[band == n] for n in range(n_depths)]
    return [cell(float(v.mean()), framed) if len(v) else TableCell("") for v in at_depth]
